"""TensorRT or TensorRT-RTX: loading whichever was asked for, or saying in one sentence why it can't be.

Engine code is written to the API that TensorRT 10.12 and later, 11 and TensorRT-RTX share; a test checks every name. In
it a variable that holds the module is called `trt`, its objects are called after their class (`builder`, `config`,
`network`, `parser`, `error`, `layer`, `tensor`, ...), and a function for TensorRT-RTX alone ends in `_rtx`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, get_args

from spacecompile.errors import MissingPartError, UsageError
from spacecompile.extras import require_extra
from spacecompile.runtime.cuda.driver import GpuFacts, probe_cuda

EngineKind = Literal["tensorrt", "tensorrt-rtx"]
"""Also the name of the extra."""

_MODULES: Final[dict[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
ENGINE_TITLES: Final[dict[str, str]] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_OLDEST: Final[dict[str, tuple[int, int]]] = {"tensorrt": (10, 12), "tensorrt-rtx": (1, 7)}
_CUDA_MAJORS = (13, 12)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineApi:
    """A library that is ready to build.

    Attributes:
        kind: Kind of the library.
        trt: Python module of the library.
        version: Version of the library.
        cuda: Major version of the CUDA toolkit that the library was made with; None when its package does not tell.
        device: GPU of this machine; None without one, which only TensorRT-RTX can do.
    """

    kind: EngineKind
    trt: Any
    version: str
    cuda: str | None
    device: GpuFacts | None

    @property
    def title(self) -> str:
        """Library and version, for messages."""
        return f"{ENGINE_TITLES[self.kind]} {self.version}"


def load_engine_api(kind: str) -> EngineApi:
    """Import a library, once it is certain that it can be used.

    Full TensorRT's builder fails or crashes without a driver, so the driver is asked first.

    Args:
        kind: Kind of the library, of `EngineKind`.

    Raises:
        UsageError: If there is no such engine.
        MissingPartError: If the engine, its libraries, the driver or the GPU that it needs are missing, or the engine
            is too old.
    """
    if kind not in _MODULES:
        raise UsageError(f"--engine is {kind!r}; choose one of {', '.join(get_args(EngineKind))}.")
    require_extra(kind, f"--engine {kind}")
    probe = probe_cuda()
    if kind == "tensorrt" and probe.device is None:
        raise MissingPartError(
            f"TensorRT builds for the GPU of this machine, but {probe.problem}. Run it on the target, or build "
            "portable plans here with --engine tensorrt-rtx."
        )
    try:
        trt = import_module(_MODULES[kind])
    except (ImportError, OSError) as error:
        raise MissingPartError(
            f"{ENGINE_TITLES[kind]}'s Python package is installed, but its libraries can't be loaded: {error}. Install "
            f"them as NVIDIA's guide says, or run: pip install --force-reinstall 'spacecompile[{kind}]'"
        ) from error
    _check_version(kind, trt.__version__)
    return EngineApi(
        kind="tensorrt" if kind == "tensorrt" else "tensorrt-rtx",
        trt=trt,
        version=trt.__version__,
        cuda=_cuda_of(_MODULES[kind], trt.__version__),
        device=probe.device,
    )


def any_engine_api() -> EngineApi | None:
    """The first library that can be used here, or None."""
    for kind in get_args(EngineKind):
        try:
            return load_engine_api(kind)
        except MissingPartError as error:
            logger.info("%s", error)
    return None


def _check_version(kind: str, found: str) -> None:
    """Refuse a library whose API is older than what this module was written to."""
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if numbers < _OLDEST[kind]:
        oldest = ".".join(map(str, _OLDEST[kind]))
        raise MissingPartError(
            f"{ENGINE_TITLES[kind]} {found} is installed; {oldest} or newer is needed. "
            f"Run: pip install --upgrade 'spacecompile[{kind}]'"
        )


def _cuda_of(module: str, library_version: str) -> str | None:
    """From the name of the package that brought the library, for example `tensorrt_rtx_cu13`."""
    for major in _CUDA_MAJORS:
        try:
            if version(f"{module}_cu{major}") == library_version:
                return str(major)
        except PackageNotFoundError:
            continue
    return None


class _Collectors:
    """Who wants a library's errors: its one logger serves every session of the process, each in its own thread."""

    def __init__(self) -> None:
        self._by_thread: dict[int, list[str]] = {}
        self._lock = threading.Lock()

    def swap(self, errors: list[str] | None) -> list[str] | None:
        """Collect what is heard in this thread from now on, or nothing; gives what collected before."""
        with self._lock:
            before = self._by_thread.pop(threading.get_ident(), None)
            if errors is not None:
                self._by_thread[threading.get_ident()] = errors
            return before

    def add(self, error: str) -> None:
        """An error for this thread's own collector; from a thread of the library's, for all that collect now."""
        with self._lock:
            own = self._by_thread.get(threading.get_ident())
            for errors in list(self._by_thread.values()) if own is None else [own]:
                errors.append(error)


@contextmanager
def collected_errors(api: EngineApi) -> Iterator[list[str]]:
    """The errors that the library logs while the block runs; everything it says goes to `logging` as well.

    Those of a session in another thread are not among them. A build logs from threads of its own; what comes from a
    thread in which nobody collects may be of anybody who does.
    """
    collectors: _Collectors = logger_of(api.trt).collectors
    errors: list[str] = []
    before = collectors.swap(errors)
    try:
        yield errors
    finally:
        collectors.swap(before)


@cache
def logger_of(trt: Any) -> Any:
    """The logger of a library: one for the process, since the library itself keeps the first that it is given."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
    }

    class ForwardingLogger(trt.ILogger):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.collectors = _Collectors()

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.collectors.add(message)
                # The error that the build raises says it; the rest is for who looks closer.
                level = logging.INFO
            logger.log(level, "%s", message)

    return ForwardingLogger()


def sentence_of(message: str) -> str:
    """What a library's message says, without the places in its source code and the names of its functions.

    Args:
        message: One or more lines. A failure of CUDA's runtime comes last and says the least: without a GPU such a
            failure is reported beside whatever went wrong.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    exact = [line for line in lines if "Error Code" in line and "Cuda Runtime" not in line]
    plain = [line for line in lines if not line.startswith("Invalid Node")]
    text = next(iter((*exact, *plain, *lines)), "no reason was given")
    inner = re.search(r"Error Code \d+: (?:API Usage Error|Internal Error|[\w ]+?)\s*\((.*)\)\s*$", text)
    text = inner.group(1) if inner else text
    text = re.sub(r"^\[\w+\.cpp:\d+: \w+\]\s*|^Assertion failed: [^:]*: ", "", text)
    return re.sub(r"\s*\.?\s*In \w+ at /\S+$", "", text).rstrip(". ")
