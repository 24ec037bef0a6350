"""Plans inside a bundle, made on the machine that will run them: built, tested, and only then swapped in.

The new bundle is written beside the old one, its plans answer the self-test from there, and then it takes the old
one's place, see `bundle_writer`. After any failure the old bundle is what is found. Needs neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from spacecompile.contract import Manifest, Progress, Variant, no_progress
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.export.bundle.writer import BundleWriter, bundle_writer
from spacecompile.export.engine.build_plan import EngineBuild, build_engine
from spacecompile.export.engine.options import target_of
from spacecompile.export.engine.plan_facts import EngineFacts, EngineOptions, require_precision
from spacecompile.export.engine.writer import FACTS_NAME, LAYERS_NAME, PLAN_NAME
from spacecompile.record import json_from_record
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.cuda.engine_api import EngineApi, EngineKind
from spacecompile.runtime.selftest import SelftestResult, run_selftest

_PREFIXES: Final[dict[EngineKind, str]] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_PLAN_SUFFIX: Final = ".plan"

_REMEDY: Final = "Free some space, or check the permissions of the folder that the bundle lies in."


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        manifest_sha256: SHA-256 of the new manifest.
        plans: Facts of every new plan by its variant's name.
        removed: Names of the plans that were replaced.
        selftest: Distances of the new plans' answers from PyTorch's.
    """

    manifest_sha256: str
    plans: dict[str, EngineFacts]
    removed: tuple[str, ...]
    selftest: SelftestResult


def buildable(bundle: Bundle, names: Sequence[str] = ()) -> tuple[Variant, ...]:
    """The variants that a plan can be made of: those with an ONNX file of their own.

    Args:
        bundle: Bundle that holds the variants.
        names: Names of the variants to take; all if empty.

    Raises:
        UsageError: If one is unknown or has no ONNX file of its own, or there is none.
    """
    able = tuple(it for it in bundle.manifest.variants if it.path.endswith(".onnx") and it.precision != "bf16")
    for name in names:
        if bundle.variant(name) not in able:
            raise UsageError(
                f"variant {name} has no ONNX file that TensorRT could take as it is; choose among "
                f"{', '.join(it.name for it in able) or 'none'}."
            )
    chosen = tuple(it for it in able if it.name in names) if names else able
    if not chosen:
        raise UsageError(f"{bundle.root} has no ONNX file that TensorRT could take; it has {bundle.variant_names()}.")
    return chosen


def rebuild(
    bundle: Bundle,
    api: EngineApi,
    *,
    variants: Sequence[Variant],
    options: EngineOptions | None = None,
    threads: int | None = None,
    build: Callable[..., EngineBuild] = build_engine,
    progress: Progress = no_progress,
) -> Rebuilt:
    """Make plans of variants for this machine and put them into the bundle.

    Args:
        bundle: Bundle to change; its other files stay the same bytes.
        api: Library that builds and runs them.
        variants: Variants from `buildable`.
        options: Build options; the defaults if None.
        threads: Number of threads per operator in the self-test; None for the physical cores that this process may use.
        build: Function with the signature of `build_engine`, which makes a plan of ONNX bytes.
        progress: Callback for progress.

    Raises:
        BuildError: If the library can't build one, or it computes in other types than the variant says.
        ParityError: If a plan's answers differ from PyTorch's by more than the variant's tolerance.
        MissingPartError: If there is no GPU to run them on, or something that their backend needs is not installed: an
            untested plan is not shipped.
        IntegrityError: If a file of the bundle differs from its manifest.
        OutputError: If the new bundle can't be written.
    """
    _require_backend(api)
    options = options or EngineOptions()
    bundle.verify_all()
    target = target_of(api, options)
    names = {variant.name: f"{_PREFIXES[api.kind]}-{variant.name}-{target}" for variant in variants}
    removed = tuple(plan.name for plan in bundle.manifest.variants if _is_replaced(plan, variants, api.kind))
    # A link stays one: the folder that it points to is what changes.
    with bundle_writer(bundle.root.resolve(), remedy=_REMEDY) as writer:
        kept = [it for it in bundle.manifest.variants if it.name not in removed]
        _copy(bundle, writer, without=removed)
        plans: dict[str, EngineFacts] = {}
        added: list[Variant] = []
        for variant in variants:
            built = build(
                bundle.read(variant.path), api, options=options, step=f"engine {variant.name}", progress=progress
            )
            require_precision(built.facts.types, variant.precision, variant=variant.name)
            facts = replace(built.facts, certified=(api.kind,))
            added.append(_write_plan(writer, variant, built, facts, name=names[variant.name], kind=api.kind))
            plans[names[variant.name]] = facts
        _write_manifest(writer, bundle.manifest, (*kept, *added))
        staged = open_bundle(writer.folder)
        selftest = _tested(staged, added, api.kind, threads=threads, progress=progress)
    return Rebuilt(manifest_sha256=staged.manifest_sha256, plans=plans, removed=removed, selftest=selftest)


def _require_backend(api: EngineApi) -> None:
    """Refuse before minutes of building what could not be tested afterwards."""
    if api.device is None:
        raise MissingPartError(
            f"{api.title} could build plans here, but there is no GPU to test them on, and a bundle holds only what "
            "was tested. Run it on the target, or make plans outside the bundle with `spacecompile engine`."
        )
    entry = entry_named(api.kind)
    reason = entry.missing()
    if reason is not None:
        raise MissingPartError(
            f"{api.title} could build plans here, but its backend can't test them: {reason}. Add it with: "
            f"{entry.remedy}"
        )


def _is_replaced(plan: Variant, variants: Sequence[Variant], kind: EngineKind) -> bool:
    """Whether it is a plan of this library and of one of these variants, for whatever machine."""
    is_plan = plan.path.endswith(_PLAN_SUFFIX) and kind in plan.certified
    return is_plan and any((plan.precision, plan.tta) == (it.precision, it.tta) for it in variants)


def _copy(bundle: Bundle, writer: BundleWriter, *, without: Sequence[str]) -> None:
    """Every listed file but those of the plans that go, byte for byte, hashed on the way."""
    gone = tuple(str(Path(bundle.variant(name).path).parent) + "/" for name in without)
    for path in bundle.manifest.files:
        if not path.startswith(gone or ("\0",)):
            writer.write(path, bundle.read(path))


def _write_plan(
    writer: BundleWriter, variant: Variant, built: EngineBuild, facts: EngineFacts, *, name: str, kind: EngineKind
) -> Variant:
    folder = f"variants/{name}"
    writer.write(f"{folder}/{PLAN_NAME}", built.plan)
    writer.write(f"{folder}/{FACTS_NAME}", json_from_record(facts))
    writer.write(f"{folder}/{LAYERS_NAME}", json_from_record(built.layers))
    return replace(variant, name=name, path=f"{folder}/{PLAN_NAME}", certified=(kind,))


def _write_manifest(writer: BundleWriter, manifest: Manifest, variants: tuple[Variant, ...]) -> None:
    files = dict(sorted(writer.facts.items()))
    writer.write_manifest(json_from_record(replace(manifest, variants=variants, files=files)))


def _tested(
    staged: Bundle, added: Sequence[Variant], kind: EngineKind, *, threads: int | None, progress: Progress
) -> SelftestResult:
    """Let every new plan answer the self-test, read from where it will be moved from."""
    results = [
        run_selftest(staged, backend=kind, variant=variant.name, threads=threads, progress=progress)
        for variant in added
    ]
    return SelftestResult(
        deviations=tuple(item for result in results for item in result.deviations),
        not_tested=(),
        files=tuple(dict.fromkeys(path for result in results for path in result.files)),
    )
