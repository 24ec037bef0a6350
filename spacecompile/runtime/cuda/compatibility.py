"""Whether a plan fits this machine, asked before the library sees a byte of it.

A plan is machine code for one library version and one kind of GPU. The library would refuse a wrong one with a code,
or in the worst case run it; the sidecar that the build wrote says what it is for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from spacecompile.contract import INPUT_NAME
from spacecompile.errors import IntegrityError, PlanMismatchError
from spacecompile.runtime.cuda.driver import GpuFacts
from spacecompile.runtime.cuda.engine_api import ENGINE_TITLES

SIDECAR_SUFFIX: Final = ".json"
"""`model.plan` has `model.plan.json` beside it."""

_AMPERE: Final = (8, 0)
RTX_DEFAULT_TARGET: Final = "sm80-and-later"
"""NVIDIA's guide, CPU-Only AOT: by default a plan runs on 8.0, 8.6, 8.9, 12.0 and later."""


class _Options(msgspec.Struct):
    version_compatible: bool = False
    hardware_compatibility: str = "none"


class PlanFacts(msgspec.Struct, kw_only=True):
    """What the runtime needs of `model.plan.json`; `export.engine.plan_facts.EngineFacts` says what the fields mean.

    Fields that are not listed here are skipped, so that a later builder may add some.
    """

    engine: str
    library_version: str
    library_cuda: str | None
    driver: str | None
    cuda: str | None
    compute_capability: str | None
    target: str
    options: _Options
    profile: Mapping[str, tuple[int, ...]]
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int


def facts_from_sidecar(content: bytes, origin: str) -> PlanFacts:
    """Read a sidecar.

    Args:
        content: Content of `model.plan.json`.
        origin: Where the content came from, for the message.

    Raises:
        IntegrityError: If the content is malformed.
    """
    try:
        return msgspec.json.decode(content, type=PlanFacts)
    except msgspec.MsgspecError as error:
        raise IntegrityError(
            f"{origin} is malformed: {error}. Run `spacecompile rebuild` on the bundle of this plan."
        ) from error


def check_plan_bytes(plan: bytes, facts: PlanFacts, *, bundle: str) -> None:
    """Refuse a plan whose bytes are not those that the sidecar speaks of.

    Raises:
        IntegrityError: If the hashes differ; the message names both.
    """
    found = hashlib.sha256(plan).hexdigest()
    if found != facts.plan_sha256:
        raise IntegrityError(
            f"the plan has SHA-256 {found}, its sidecar says {facts.plan_sha256}: it is damaged or of another build. "
            f"{_remedy(bundle, facts.engine)}"
        )


def check_plan_fits(
    facts: PlanFacts, *, engine: str, library_version: str, gpu: GpuFacts, frame_size_px: tuple[int, int], bundle: str
) -> None:
    """Compare a plan's sidecar with this machine: library, its version, GPU, driver and profile.

    Args:
        facts: Sidecar of the plan.
        engine: Kind of the library on this machine, of `engine_api.EngineKind`.
        library_version: Version of that library.
        gpu: GPU of this machine.
        frame_size_px: (height, width) of the bundle's frames.
        bundle: Folder of the bundle, as a user would name it on the command line.

    Raises:
        PlanMismatchError: If one of them does not fit; the message has the command that makes a fitting plan.
    """
    here = f"this is sm_{_digits(gpu.compute_capability)} with {_title(engine)} {library_version}"
    built = f"built for {_target_text(facts)} with {_title(facts.engine)} {facts.library_version}"
    fits = facts.engine == engine and _library_fits(facts, library_version) and _gpu_fits(facts, gpu)
    if not fits:
        raise PlanMismatchError(f"{built}, {here}: {_remedy(bundle, engine)}")
    if facts.cuda is not None and _numbers(gpu.cuda)[0] < _numbers(facts.cuda)[0]:
        raise PlanMismatchError(
            f"{built} on a driver for CUDA {facts.cuda}, the driver here runs CUDA {gpu.cuda} at most: update NVIDIA's "
            f"driver, or {_remedy(bundle, engine)}"
        )
    expected = (*frame_size_px, 3)
    profile = tuple(facts.profile.get(INPUT_NAME, ()))
    if profile != expected:
        raise PlanMismatchError(
            f"{built} for frames of shape {profile}, the bundle's are {expected}: {_remedy(bundle, engine)}"
        )


def _library_fits(facts: PlanFacts, library_version: str) -> bool:
    built, here = _numbers(facts.library_version), _numbers(library_version)
    if facts.options.version_compatible:
        # NVIDIA's guide, Version Compatibility: within a major version, from the builder's minor version on.
        return built[0] == here[0] and built <= here
    return built == here


def _gpu_fits(facts: PlanFacts, gpu: GpuFacts) -> bool:
    here = _capability(gpu.compute_capability)
    if facts.engine == "tensorrt-rtx":
        if facts.target == RTX_DEFAULT_TARGET:
            return here >= _AMPERE
        return f"sm{_digits(gpu.compute_capability)}" in facts.target.split("+")
    if facts.options.hardware_compatibility == "ampere-plus":
        return here >= _AMPERE
    return facts.compute_capability == gpu.compute_capability


def _target_text(facts: PlanFacts) -> str:
    """What a plan was built for, for a message."""
    if facts.engine == "tensorrt" and facts.options.hardware_compatibility == "none" and facts.compute_capability:
        return f"sm_{_digits(facts.compute_capability)}"
    return facts.target


def _title(engine: str) -> str:
    return ENGINE_TITLES.get(engine, engine)


def rebuild_command(bundle: str, engine: str) -> str:
    """What makes a fitting plan: TensorRT is the command's default, another library has to be named."""
    return f"spacecompile rebuild {bundle}" + ("" if engine == "tensorrt" else f" --engine {engine}")


def _remedy(bundle: str, engine: str) -> str:
    return f"run `{rebuild_command(bundle, engine)}`."


def _digits(compute_capability: str) -> str:
    return compute_capability.replace(".", "")


def _capability(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text))) or (0,)
