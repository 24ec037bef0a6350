"""Which backends there are, which of them this machine has, and which one a variant gets.

A further backend is one more row of `BACKENDS` and one more module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Protocol

from spacecompile.contract import Precision, Variant
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.backends import Backend


class BackendFactory(Protocol):
    """Makes a backend from the bytes of one graph file."""

    def __call__(self, model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool) -> Backend:
        """Parse the graph; `precision` is what the engine shall compute in, where the file leaves that open."""


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """One row of the table of backends.

    Attributes:
        name: That a user asks for it by.
        suffix: Of the graph files that it runs.
        missing: What keeps this machine from having it, or None. Cheap: it imports no engine.
        remedy: The command that adds it.
        factory: Imports the engine and gives its factory.
    """

    name: str
    suffix: str
    missing: Callable[[], str | None]
    remedy: str
    factory: Callable[[], BackendFactory]


def _onnxruntime_missing() -> str | None:
    return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"


def _onnxruntime_factory() -> BackendFactory:
    try:
        module = import_module("spacecompile.runtime.backends.onnxruntime_")
    except ImportError as error:
        raise MissingPartError(
            f"onnxruntime is installed but can't be imported: {error}. "
            "Install it again with: pip install --force-reinstall onnxruntime"
        ) from error
    factory: BackendFactory = module.OnnxRuntimeBackend
    return factory


BACKENDS = (
    BackendEntry(
        name="onnxruntime",
        suffix=".onnx",
        missing=_onnxruntime_missing,
        remedy="pip install onnxruntime",
        factory=_onnxruntime_factory,
    ),
)
"""Every backend, the preferred one first."""


def choose_backend(
    requested: str, variant: Variant, *, backends: tuple[BackendEntry, ...] = BACKENDS
) -> tuple[BackendEntry, str]:
    """The backend for a variant, and why it is this one.

    Args:
        requested: A name, which is taken or refused; or `auto` for the first that this machine has and that runs the
            variant's kind of file.
        variant: To run.
        backends: The table.

    Raises:
        UsageError: If the name is unknown, or that backend does not run this variant.
        MissingPartError: If the machine lacks it.
    """
    runnable = [entry for entry in backends if entry.suffix == PurePosixPath(variant.path).suffix]
    if requested == "auto":
        return _first_present(runnable, variant)
    entry = next((entry for entry in backends if entry.name == requested), None)
    if entry is None:
        names = ", ".join(["auto", *(entry.name for entry in backends)])
        raise UsageError(f"backend is {requested!r}; choose one of {names}.")
    if entry not in runnable:
        raise UsageError(f"backend {entry.name} does not run {variant.path}. Choose another variant or backend.")
    reason = entry.missing()
    if reason:
        raise MissingPartError(f"backend {entry.name} is missing: {reason}. Add it with: {entry.remedy}")
    return entry, "asked for by name"


def _first_present(runnable: list[BackendEntry], variant: Variant) -> tuple[BackendEntry, str]:
    skipped: list[str] = []
    for entry in runnable:
        reason = entry.missing()
        if reason is None:
            passed_over = f"; passed over {', '.join(skipped)}" if skipped else ""
            return entry, f"auto: the first present backend that runs {PurePosixPath(variant.path).name}{passed_over}"
        skipped.append(f"{entry.name} ({reason}; add it with: {entry.remedy})")
    if not skipped:
        raise UsageError(f"no backend runs {variant.path}. Choose another variant.")
    raise MissingPartError(f"no backend for {variant.path} is present: {', '.join(skipped)}.")
