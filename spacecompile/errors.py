"""Errors that a user can act on, and the exit code that each one gives.

Every error says what was seen and what to do. The command line prints the message and
exits with `exit_code`; a traceback is only ever shown for our own bugs (exit code 1).
"""

from __future__ import annotations

import errno
from typing import ClassVar

_FULL = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130


class SpacecompileError(Exception):
    """Base of every error that is the user's to solve.

    Attributes:
        exit_code: What the command line exits with.
        has_document: Whether stdout already holds the command's JSON document: it is the only one, so the error adds
            none.
    """

    exit_code: ClassVar[int] = EXIT_UNEXPECTED
    has_document: bool = False


class InterruptedRunError(SpacecompileError):
    """A run that the user stopped and that left something to use; the message says what, and how to go on."""

    exit_code = EXIT_INTERRUPTED


class StepFailedError(SpacecompileError):
    """A command that another one ran and that failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep the exit code of the command that failed."""
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # elsewhere the class decides


class UsageError(SpacecompileError):
    """An argument, flag or path that can't be used as given."""

    exit_code = 2


class DataError(UsageError):
    """A frame folder, label table or mask that can't be read as a data set."""


class FrameError(UsageError):
    """A frame with the wrong shape, dtype, channel order or content."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, truncated, foreign or inconsistent."""


class DivergedError(UsageError):
    """A training whose loss, gradient or weights are no longer finite."""


class OutputError(UsageError):
    """An output path that exists, is read-only or is full."""


class MissingPartError(SpacecompileError):
    """A missing extra, driver or device. The message holds the exact command that adds it."""

    exit_code = 3


class DeviceError(SpacecompileError):
    """A GPU, its driver or an engine on it that failed at run time."""

    exit_code = 3


class DeviceMemoryError(DeviceError):
    """A GPU that is out of memory."""


class DeviceLostError(DeviceError):
    """A CUDA error that sticks: nothing on this GPU works in this process any more, whatever is tried."""


class BuildError(SpacecompileError):
    """An export, a rewrite proof or an engine build that failed."""

    exit_code = 4


class ParityError(SpacecompileError):
    """A shipped file whose answers differ from PyTorch by more than its tolerance."""

    exit_code = 5


class BudgetError(SpacecompileError):
    """A budget that is exceeded."""

    exit_code = 6


class IntegrityError(SpacecompileError):
    """A bundle that is tampered with, incomplete, or made for another version or target."""

    exit_code = 7


class PlanMismatchError(IntegrityError):
    """A plan that is whole, and made for another library, GPU, driver or frame size than there is here."""


class AnswerError(IntegrityError):
    """Outputs that no sound graph gives for any frame: NaN, infinity, or out of range."""


def first_line_of(error: BaseException) -> str:
    """What an error of another library says, in one line without its full stop; its type where it says nothing.

    Some of torch's messages go on with a whole graph.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def from_unexpected(error: Exception) -> SpacecompileError:
    """What no code foresaw, as a sentence: the machine's own troubles, or a bug of ours.

    Args:
        error: To be logged by the caller, with its traceback.
    """
    what = ": ".join(dict.fromkeys((type(error).__name__, first_line_of(error))))
    is_full = isinstance(error, OSError) and error.errno in _FULL
    is_full |= any(told in str(error) for told in ("can't allocate memory", "out of memory"))  # torch's RuntimeErrors
    if is_full or isinstance(error, MemoryError):
        return SpacecompileError(f"{what}. Check the free memory and the disk.")
    if isinstance(error, OSError) and error.errno in _TOO_MANY_OPEN:
        return SpacecompileError(f"{what}. Raise the limit of open files, for example with ulimit -n.")
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{error.filename}: {error.strerror}. Check the path and its permissions.")
    return SpacecompileError(f"{what}. This is a bug; please report it with the lines on stderr.")
