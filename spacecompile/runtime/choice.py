"""Which variant of a bundle a session gets, and the record of everything that was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spacecompile.contract import PrecisionWish, Tta, Variant
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.runtime.backend import Backend, GpuOptions
from spacecompile.runtime.backends.registry import can_run, expected_ratio
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.cuda.compatibility import SIDECAR_SUFFIX
from spacecompile.runtime.frame_reader import Color

# From the most to the least exact, as `precision=None` prefers: on a CPU fewer bits are not faster by themselves.
_EXACTNESS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `load` decided, and why: a number without its circumstances is not a result.

    Attributes:
        bundle: Name of the bundle.
        manifest_sha256: SHA-256 of the bundle's manifest.
        variant: Name of the variant.
        variant_reason: Why this variant was chosen.
        backend: Name of the backend.
        backend_version: Version of the engine behind the backend.
        backend_reason: Why this backend was chosen.
        threads: Number of threads per operator.
        threads_reason: Why there are so many threads.
        spinning: Whether idle threads were to wait busily; OpenVINO has no such switch.
        color: Order of the colour channels in the caller's frames.
        in_flight: Number of frames that may be in flight on a GPU; 1 on the CPU, which answers at once.
        fallback: Why the CPU answers instead of the GPU that was asked for; empty when it does not.
    """

    bundle: str
    manifest_sha256: str
    variant: str
    variant_reason: str
    backend: str
    backend_version: str
    backend_reason: str
    threads: int
    threads_reason: str
    spinning: bool
    color: Color
    in_flight: int = 1
    fallback: str = ""


def choose_variant(
    bundle: Bundle, *, tta: Tta, precision: PrecisionWish | None, name: str | None, backend: str
) -> tuple[Variant, str]:
    """The variant for a wish, and why it is this one; the arguments are those of `session.load`.

    Raises:
        UsageError: If the bundle has no such variant, or the backend is unknown.
    """
    if name is not None:
        named = bundle.variant(name)
        if precision not in (None, named.precision) or tta not in ("none", named.tta):
            raise UsageError(
                f"variant {name} has precision {named.precision} and tta {named.tta}, but precision {precision} and "
                f"tta {tta} were asked for. Give either the variant or these two."
            )
        return named, "asked for by name"
    wanted = None if precision == "auto" else precision
    fitting = [
        variant
        for variant in bundle.manifest.variants
        if variant.tta == tta and wanted in (None, variant.precision) and can_run(backend, variant)
    ]
    if not fitting:
        wish = f"tta {tta}" + (f" and precision {wanted}" if wanted else "")
        if backend != "auto":
            wish += f" that backend {backend} runs"
        raise UsageError(
            f"{bundle.root} has no variant with {wish}; it has {bundle.variant_names()}. Choose one of these, or build "
            "it with `spacecompile build --precision ... --tta ...`."
        )
    exact_first = sorted(fitting, key=lambda variant: _EXACTNESS.index(variant.precision))
    if precision == "auto":
        chosen, why = _fastest(exact_first, backend)
        return chosen, f"tta {tta}, {why}"
    return exact_first[0], f"tta {tta}, " + (
        "precision asked for" if precision else "the most exact precision of the bundle"
    )


def _fastest(variants: Sequence[Variant], backend: str) -> tuple[Variant, str]:
    """The fastest of the variants that were measured on a CPU like this, the earlier of equals; else the first."""
    ratios = {variant.name: expected_ratio(backend, variant) for variant in variants}
    measured = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if not measured:
        return variants[0], "the most exact precision of the bundle: none was measured on a CPU like this"
    fastest = min((variant for variant in variants if variant.name in measured), key=lambda it: measured[it.name])
    speeds = ", ".join(f"{name} {ratio}" for name, ratio in measured.items())
    return fastest, f"the fastest precision on a CPU like this, by measured time per frame: {speeds}"


def gpu_options(bundle: Bundle, variant: Variant, *, device_index: int = 0, in_flight: int = 1) -> GpuOptions:
    """What a backend on a GPU is told of a variant; the sidecar of its plan is hashed as it is read.

    Raises:
        IntegrityError: If the sidecar differs from the manifest.
    """
    sidecar_path = variant.path + SIDECAR_SUFFIX
    return GpuOptions(
        device_index=device_index,
        in_flight=in_flight,
        sidecar=bundle.read(sidecar_path) if sidecar_path in bundle.manifest.files else None,
        bundle=str(bundle.root),
        frame_size_px=bundle.manifest.spec.frame_size_px,
    )


def check_graph_fits(engine: Backend, bundle: Bundle, variant: Variant) -> None:
    """Compare what an engine holds with the manifest.

    Raises:
        IntegrityError: If they differ; the engine is closed then.
    """
    spec, signature = bundle.manifest.spec, engine.signature
    seen = (signature.frame_size_px, signature.num_classes)
    if seen != (spec.frame_size_px, len(spec.classes)):
        engine.close()
        raise IntegrityError(
            f"{bundle.root / variant.path} takes frames of {seen[0]} and knows {seen[1]} classes; the manifest says "
            f"{spec.frame_size_px} and {len(spec.classes)}. Build the bundle again with `spacecompile build`."
        )
