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
            OSError(errno.ENOSPC, "No space left on device", "runs/last.pt"),
            "OSError: [Errno 28] No space left on device: 'runs/last.pt'. Check the free memory and the disk.",
            1,
            id="a full disk at a path",
        ),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried. Check the free memory "
            "and the disk.",
            1,
            id="torch without memory",
        ),
        pytest.param(
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB. Check the free memory and the disk.",
            1,
            id="torch without memory on a GPU",
        ),
        pytest.param(
            OSError(errno.EMFILE, "Too many open files"),
            "OSError: [Errno 24] Too many open files. Raise the limit of open files, for example with ulimit -n.",
            1,
            id="too many open files",
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
