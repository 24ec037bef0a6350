"""Broken files of a data set: counted and listed, and fatal only from one in a hundred on.

Large archives lose a file now and then; a run of days must not end at one of them. Many mean that the data set is not
what it should be, and training on the rest would hide that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spacecompile.errors import DataError

log = logging.getLogger(__name__)

_FATAL_SHARE: Final = 0.01
_NAMED_IN_MESSAGE: Final = 5
_LOGGED_ONE_BY_ONE: Final = 10


@dataclass(frozen=True, kw_only=True)
class BrokenFile:
    """A frame that can't be used.

    Attributes:
        path: File at fault.
        reason: Sentence on what is wrong, which names the file.
    """

    path: Path
    reason: str


class BrokenFiles:
    """The broken frames of one set so far, each once."""

    def __init__(self, total: int, *, name: str) -> None:
        """Start with none.

        Args:
            total: Number of frames in the set, broken ones included.
            name: Name of the set, for messages.
        """
        self._total, self._name = total, name
        self._found: dict[Path, BrokenFile] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def found(self) -> tuple[BrokenFile, ...]:
        """In the order in which they were met."""
        return tuple(self._found.values())

    def add(self, broken: BrokenFile) -> None:
        """Count one more and log it.

        Raises:
            DataError: If that makes too many, see `refuse_too_many`.
        """
        if broken.path in self._found:
            return
        self._found[broken.path] = broken
        refuse_too_many([entry.reason for entry in self.found], self._total, name=self._name)
        if len(self) <= _LOGGED_ONE_BY_ONE:
            log.warning("left out of %s: %s", self._name, broken.reason)
        if len(self) == _LOGGED_ONE_BY_ONE:
            log.warning("further broken files are only counted; `spacecompile data check` lists them all")


def refuse_too_many(reasons: Sequence[str], total: int, *, name: str) -> None:
    """Refuse a set of which `_FATAL_SHARE` or more is broken.

    Args:
        reasons: Sentences on what is wrong, one for each broken frame so far.
        total: Number of frames in the set, broken ones included.
        name: Name of the set.

    Raises:
        DataError: If too many are broken; names the first few.
    """
    if not reasons or len(reasons) < _FATAL_SHARE * total:
        return
    named = "; ".join(reasons[:_NAMED_IN_MESSAGE])
    more = f"; and {len(reasons) - _NAMED_IN_MESSAGE} more" if len(reasons) > _NAMED_IN_MESSAGE else ""
    raise DataError(
        f"{len(reasons)} of {total} frames of {name} are broken, and {_FATAL_SHARE:.0%} is too many: {named}{more}. "
        "Restore these files, or remove their lines; `spacecompile data check` lists them all."
    )
