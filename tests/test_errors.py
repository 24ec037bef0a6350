"""What no code foresaw, as a sentence that is true."""

from __future__ import annotations

import errno

import pytest

from spacecompile.errors import from_unexpected


@pytest.mark.parametrize(
    ("error", "text", "exit_code"),
    [
        pytest.param(
            FileNotFoundError(errno.ENOENT, "No such file or directory", "frames/a.png"),
            "frames/a.png: No such file or directory. Check the path and its permissions.",
            2,
            id="a path",
        ),
        pytest.param(MemoryError(), "MemoryError. Check the free memory and the disk.", 1, id="no memory"),
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device"),
            "OSError: [Errno 28] No space left on device. Check the free memory and the disk.",
            1,
            id="a full disk",
        ),
        pytest.param(
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "ConnectionRefusedError: [Errno 111] Connection refused. This is a bug; please report it with the lines on "
            "stderr.",
            1,
            id="no trouble of the disk",
        ),
        pytest.param(
            ZeroDivisionError("oops\nand more"),
            "ZeroDivisionError: oops. This is a bug; please report it with the lines on stderr.",
            1,
            id="a bug",
        ),
    ],
)
def test_the_advice_fits_the_error(error: Exception, text: str, exit_code: int) -> None:
    known = from_unexpected(error)
    assert (str(known), known.exit_code) == (text, exit_code)
