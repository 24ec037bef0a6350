"""The table of backends: which of them this machine has, and which one a variant gets.

A further backend is one more row of `BACKENDS`, one more module, and its measurements in `speed.SPEEDS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Protocol

from spacecompile.contract import Precision, Variant
from spacecompile.errors import IntegrityError, MissingPartError, UsageError
from spacecompile.runtime.backend import Backend, GpuOptions
from spacecompile.runtime.backends.speed import measured_ratio
from spacecompile.runtime.cpu import cpu_features
from spacecompile.runtime.cuda.bindings import has_bindings

_log = logging.getLogger(__name__)


class BackendFactory(Protocol):
    """Makes a backend from the bytes of one graph file."""

    def __call__(
        self,
        model_bytes: bytes,
        *,
        precision: Precision,
        threads: int,
        spinning: bool,
        cache: bool = True,
        gpu: GpuOptions | None = None,
    ) -> Backend:
        """Parse the graph.

        Args:
            model_bytes: Content of the graph file.
            precision: Precision that the engine shall compute in, where the file leaves that open.
            threads: Number of threads per operator, the calling one included.
            spinning: Whether idle threads wait busily, where the engine lets that be chosen: lower latency, more power.
            cache: Whether the engine keeps what it compiled for the next load, where it does so.
            gpu: Options of an engine on a GPU; None for the defaults.

        Raises:
            UsageError: If `threads` is below one, or the engine never computes in the precision.
            MissingPartError: If this machine lacks what the engine or the precision needs.
            IntegrityError: If the content is no sealed graph, or needs a newer engine.
            PlanMismatchError: If a plan is made for another machine.
            DeviceError: If the GPU has no room.
        """


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """One row of the table of backends.

    Attributes:
        name: Name that a user asks for the backend by.
        suffix: Suffix of the graph files that the backend runs.
        precisions: Precisions of the variants that the backend can compute.
        missing: Function that says what keeps this machine from having the backend, or None. It imports no engine.
        remedy: Command that adds the backend.
        factory: Function that imports the engine and gives its factory.
        on_gpu: Whether the backend runs on a GPU.
    """

    name: str
    suffix: str
    precisions: tuple[Precision, ...]
    missing: Callable[[], str | None]
    remedy: str
    factory: Callable[[], BackendFactory]
    on_gpu: bool = False

    def runs(self, variant: Variant) -> bool:
        """Whether it can run the variant, on a machine that has it."""
        return self.suffix == PurePosixPath(variant.path).suffix and variant.precision in self.precisions


def _missing(package: str) -> Callable[[], str | None]:
    """`BackendEntry.missing` for an engine whose package is all that it needs."""
    return lambda: None if find_spec(package) else f"the package {package} is not installed"


def _missing_on_gpu(package: str, library: str | None = None) -> Callable[[], str | None]:
    """`BackendEntry.missing` for an engine on a GPU, whose package may come without the library for it."""

    def missing() -> str | None:
        spec = find_spec(package)
        if spec is None:
            return f"the package {package} is not installed"
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if library is not None and not any((folder / library).is_file() for folder in folders):
            return f"the package {package} that is installed is the one for the CPU"
        if package == "onnxruntime" and all(map(_is_distributed, ("onnxruntime", "onnxruntime-gpu"))):
            return "onnxruntime and onnxruntime-gpu are both installed, and one has overwritten files of the other"
        return None if has_bindings() else "the package cuda-bindings is not installed"

    return missing


def _is_distributed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _factory(module_name: str, name_in_it: str, *, reinstall: str) -> Callable[[], BackendFactory]:
    """`BackendEntry.factory` that imports a module of this package; `reinstall` mends an engine that can't be."""

    def factory() -> BackendFactory:
        try:
            module = import_module(f"spacecompile.runtime.backends.{module_name}")
        except ImportError as error:
            raise MissingPartError(
                f"a package of this backend is installed but can't be imported: {error}. Install it again with: "
                f"{reinstall}"
            ) from error
        made: BackendFactory = getattr(module, name_in_it)
        return made

    return factory


# The base install depends on onnxruntime, whose files onnxruntime-gpu shares: what goes last must be whole.
_ONNX_RUNTIME_FOR_GPUS = (
    "pip install 'spacecompile[cuda]' && pip uninstall -y onnxruntime && "
    "pip install --force-reinstall --no-deps onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"
)


BACKENDS = (
    BackendEntry(
        name="onnxruntime",
        suffix=".onnx",
        precisions=("fp32", "fp16", "int8"),
        missing=_missing("onnxruntime"),
        remedy="pip install onnxruntime",
        factory=_factory("onnxruntime_", "OnnxRuntimeBackend", reinstall="pip install --force-reinstall onnxruntime"),
    ),
    BackendEntry(
        name="openvino",
        suffix=".onnx",
        precisions=("fp32", "fp16", "bf16", "int8"),
        missing=_missing("openvino"),
        remedy="pip install 'spacecompile[openvino]'",
        factory=_factory("openvino_", "OpenVinoBackend", reinstall="pip install --force-reinstall openvino"),
    ),
    BackendEntry(
        name="tensorrt",
        suffix=".plan",
        precisions=("fp32", "fp16", "int8"),
        missing=_missing_on_gpu("tensorrt"),
        remedy="pip install 'spacecompile[tensorrt]'",
        factory=_factory(
            "tensorrt_",
            "tensorrt_backend",
            reinstall="pip install --force-reinstall tensorrt cuda-bindings",
        ),
        on_gpu=True,
    ),
    BackendEntry(
        name="tensorrt-rtx",
        suffix=".plan",
        precisions=("fp32", "fp16", "int8"),
        missing=_missing_on_gpu("tensorrt_rtx"),
        remedy="pip install 'spacecompile[tensorrt-rtx,cuda]'",
        factory=_factory(
            "tensorrt_",
            "tensorrt_rtx_backend",
            reinstall="pip install --force-reinstall tensorrt-rtx cuda-bindings",
        ),
        on_gpu=True,
    ),
    BackendEntry(
        name="onnxruntime-cuda",
        suffix=".onnx",
        precisions=("fp32", "fp16"),
        missing=_missing_on_gpu("onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
        remedy=_ONNX_RUNTIME_FOR_GPUS,
        factory=_factory("onnxruntime_cuda_", "onnxruntime_cuda_backend", reinstall=_ONNX_RUNTIME_FOR_GPUS),
        on_gpu=True,
    ),
)
"""Every backend; of those that nobody has measured, `auto` prefers the first."""


def open_backend(
    requested: str,
    variant: Variant,
    *,
    make: Callable[[BackendFactory], Backend],
    backends: Sequence[BackendEntry] = BACKENDS,
    features: frozenset[str] | None = None,
) -> tuple[Backend, str]:
    """A backend that holds a variant, and why it is this one.

    Under `auto` one that is present but can't be used, or that refuses the graph, is passed over for the next that is
    certified, with a warning; a named one is taken or fails.

    Args:
        requested: Name of a backend, or `auto`; see `choose_backend`.
        variant: Variant to run.
        make: Function that calls a factory with the graph.
        backends: Table of the backends.
        features: Features of the CPU; None for those of this one.

    Raises:
        UsageError: For the reasons of `choose_backend`.
        MissingPartError: If the machine lacks the backend, or under `auto` the last one can't be used.
        IntegrityError: If the backend, under `auto` the last one, refuses the graph.
    """
    passed_over: list[str] = []
    while True:
        entry, reason = choose_backend(requested, variant, backends=backends, features=features)
        try:
            engine = make(entry.factory())
        except (MissingPartError, IntegrityError) as error:
            rest = [other for other in backends if other is not entry]
            if requested != "auto" or not any(other.missing() is None for other in _certified(variant, rest)):
                raise
            _log.warning("backend %s is passed over for variant %s: %s", entry.name, variant.name, error)
            passed_over.append(f"{entry.name} ({error})")
            backends = rest
        else:
            return engine, "; ".join([reason, *(f"passed over {text}" for text in passed_over)])


def choose_backend(
    requested: str,
    variant: Variant,
    *,
    backends: Sequence[BackendEntry] = BACKENDS,
    features: frozenset[str] | None = None,
) -> tuple[BackendEntry, str]:
    """The backend for a variant, and why it is this one.

    Args:
        requested: Name of a backend, which is taken or refused; or `auto` for the fastest, by `speed.SPEEDS`, that
            holds a certificate for the variant and that this machine has.
        variant: Variant to run.
        backends: Table of the backends.
        features: Features of the CPU; None for those of this one.

    Raises:
        UsageError: If the name is unknown, or that backend does not run this variant.
        MissingPartError: If the machine lacks the backend.
    """
    if requested == "auto":
        return _fastest_certified(variant, backends, cpu_features() if features is None else features)
    entry = entry_named(requested, backends)
    if not entry.runs(variant):
        raise UsageError(
            f"backend {entry.name} does not run {variant.path} in {variant.precision}. "
            "Choose another variant or backend."
        )
    reason = entry.missing()
    if reason:
        raise MissingPartError(f"backend {entry.name} is missing: {reason}. Add it with: {entry.remedy}")
    if entry.name not in variant.certified:
        proven = ", ".join(variant.certified) or "no backend"
        _log.warning(
            "variant %s is not certified on %s, only on %s: nobody has compared its answers with PyTorch's",
            *(variant.name, entry.name, proven),
        )
        return entry, f"asked for by name; the variant is not certified on it, only on {proven}"
    return entry, "asked for by name"


def expected_ratio(
    requested: str,
    variant: Variant,
    *,
    backends: Sequence[BackendEntry] = BACKENDS,
    features: frozenset[str] | None = None,
) -> float | None:
    """How fast a variant is here, by `speed.SPEEDS`: for choosing among variants.

    Args:
        requested: Name of a backend, or `auto`; see `choose_backend`.
        variant: Variant to run.
        backends: Table of the backends.
        features: Features of the CPU; None for those of this one.

    Returns:
        Time per frame over that of the fp32 variant in ONNX Runtime; None if no certified backend that is asked for and
        present has been measured with it.

    Raises:
        UsageError: If the name is unknown.
    """
    asked = backends if requested == "auto" else [entry_named(requested, backends)]
    features = cpu_features() if features is None else features
    ratios = [
        ratio
        for entry in _certified(variant, asked)
        if (ratio := measured_ratio(variant.precision, entry.name, features)) is not None and entry.missing() is None
    ]
    return min(ratios, default=None)


def certified_present(variant: Variant, *, backends: Sequence[BackendEntry] = BACKENDS) -> tuple[str, ...]:
    """Names of the backends that hold a certificate for a variant and that this machine has."""
    return tuple(entry.name for entry in _certified(variant, backends) if entry.missing() is None)


def entry_named(requested: str, backends: Sequence[BackendEntry] = BACKENDS) -> BackendEntry:
    """The row of a backend.

    Raises:
        UsageError: If there is no backend of that name.
    """
    for entry in backends:
        if entry.name == requested:
            return entry
    names = ", ".join(["auto", *(entry.name for entry in backends)])
    raise UsageError(f"backend is {requested!r}; choose one of {names}.")


def can_run(requested: str, variant: Variant, *, backends: Sequence[BackendEntry] = BACKENDS) -> bool:
    """Whether a backend that a user named runs a variant at all; under `auto`, whether one for the CPU does.

    `auto` chooses by measurements, and of GPUs there are none yet.

    Raises:
        UsageError: If the name is unknown.
    """
    if requested == "auto":
        return any(entry.runs(variant) for entry in backends if not entry.on_gpu)
    return entry_named(requested, backends).runs(variant)


def is_on_gpu(requested: str, *, backends: Sequence[BackendEntry] = BACKENDS) -> bool:
    """Whether a backend that a user named runs on a GPU.

    Raises:
        UsageError: If the name is unknown.
    """
    return requested != "auto" and entry_named(requested, backends).on_gpu


def _certified(variant: Variant, backends: Sequence[BackendEntry]) -> list[BackendEntry]:
    """Backends that hold a certificate for a variant."""
    return [entry for entry in backends if entry.runs(variant) and entry.name in variant.certified]


def _fastest_certified(
    variant: Variant, backends: Sequence[BackendEntry], features: frozenset[str]
) -> tuple[BackendEntry, str]:
    """The choice of `auto`, and why it is this one."""
    certified = _certified(variant, backends)
    if not certified:
        raise UsageError(
            f"no backend runs {variant.path} in {variant.precision} with a certificate; it is certified on "
            f"{', '.join(variant.certified) or 'none'}. Choose another variant, or name a backend."
        )
    ratios = {entry.name: measured_ratio(variant.precision, entry.name, features) for entry in certified}
    # Sorting is stable: what was not measured comes last, in the order of the table.
    ranked = sorted(certified, key=lambda entry: ratios[entry.name] or float("inf"))
    reasons = {entry.name: entry.missing() for entry in ranked}
    present = [entry for entry in ranked if reasons[entry.name] is None]
    missing = ranked[: ranked.index(present[0])] if present else ranked
    passed_over = [f"{entry.name} ({reasons[entry.name]}; add it with: {entry.remedy})" for entry in missing]
    if not present:
        raise MissingPartError(f"no backend for {variant.path} is present: {', '.join(passed_over)}.")
    return present[0], _reason(variant, [(entry.name, ratios[entry.name]) for entry in present], passed_over)


def _reason(variant: Variant, ranked: Sequence[tuple[str, float | None]], passed_over: Sequence[str]) -> str:
    """Why `auto` takes the first of the ranked backends."""
    names = ", ".join(name for name, _ in ranked)
    if len(ranked) == 1:
        why = f"the one backend here that is certified for {variant.name}"
    elif ranked[0][1] is None:
        why = f"the first that is certified for {variant.name}, of {names}; none was measured on a CPU like this"
    else:
        speeds = ", ".join(f"{name} {'not measured' if ratio is None else ratio}" for name, ratio in ranked)
        why = f"the fastest certified for {variant.name} on a CPU like this, by measured time per frame: {speeds}"
    return f"auto: {why}" + (f"; passed over {', '.join(passed_over)}" if passed_over else "")
