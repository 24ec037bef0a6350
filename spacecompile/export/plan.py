"""What a build is asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec

from spacecompile.contract import TOLERANCES, ModelSpec, Precision, Tta, Variant
from spacecompile.errors import UsageError
from spacecompile.export.bundle.writer import SUFFIX, check_output
from spacecompile.export.parity.certificate import backends_of
from spacecompile.export.parity.frame_set import images_of
from spacecompile.export.sealed.graph import check_tta
from spacecompile.export.sealed.to_onnx import OPSET
from spacecompile.extras import modules_of
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint
from spacecompile.network.foreign.identify import NETWORK_FIELDS
from spacecompile.network.model import MultiTaskNetwork

_OTHER_FILES_BYTES = 32 << 20
_BYTES_PER_WEIGHT = 4


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Settings that few builds change.

    Attributes:
        rewrite: Whether to run the exact rewrites.
        spec_changes: Fields of the spec to use instead of the checkpoint's, such as `input_size_px` or `mean`. Those
            that say which network it is (`architecture`, `encoder`, `encoder_depth`, `decoder_options`) are for foreign
            checkpoints.
        parity_frames: Largest number of real or rendered frames in the parity check.
        calibration_frames: Largest number of other frames that the ranges of fp16 and int8 are measured on.
    """

    rewrite: bool = True
    spec_changes: Mapping[str, Any] = field(default_factory=dict)
    parity_frames: int = 32
    calibration_frames: int = 16


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A build that is ready to start.

    Attributes:
        checkpoint_path: Path of the checkpoint's file.
        checkpoint_bytes: Size of the checkpoint's file.
        checkpoint: Loaded checkpoint, whose network carries `spec`.
        spec: Spec of the checkpoint with the changes that were asked for.
        output: Folder of the bundle.
        variants: Variants to build, in order.
        data: Folder of real frames; None for rendered ones.
        options: Settings that few builds change.
    """

    checkpoint_path: Path
    checkpoint_bytes: int
    checkpoint: LoadedCheckpoint
    spec: ModelSpec
    output: Path
    variants: tuple[Variant, ...]
    data: Path | None
    options: BuildOptions

    @property
    def name(self) -> str:
        """What the bundle calls itself: not after its folder, so that two builds give the same bytes."""
        return self.checkpoint_path.stem


def plan_build(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    precision: Sequence[str] = ("fp32",),
    tta: Sequence[str] = ("none", "d4"),
    data: str | Path | None = None,
    force: bool = False,
    options: BuildOptions | None = None,
) -> BuildPlan:
    """Load the checkpoint and check everything that can be checked before the work; see `build` for the arguments.

    Raises:
        CheckpointError: If the checkpoint can't be used.
        UsageError: If an argument can't be used.
        MissingPartError: If no installed backend computes in a precision, so that it can't be certified.
        DataError: If the data folder holds no image.
        OutputError: If something is in the way at the output.
    """
    options = options or BuildOptions()
    if options.parity_frames < 0 or options.calibration_frames < 1:
        raise UsageError(
            f"there are {options.parity_frames} parity frames and {options.calibration_frames} calibration frames; at "
            "least 0 and 1 are needed."
        )
    path = Path(checkpoint)
    combinations = _combinations(precision, tta)
    loaded = load_checkpoint(path, given=options.spec_changes)
    spec = changed_spec(loaded.spec, options.spec_changes)
    for _, augmentation in combinations:
        check_tta(spec, augmentation)
    # The rewrites count the cost at the size that the network's own spec says.
    loaded.network.spec = spec
    if data is not None:
        images_of(Path(data))
    folder = Path(output) if output is not None else Path(path.stem + SUFFIX)
    variants = tuple(_variant(*combination) for combination in combinations)
    for variant in variants:
        backends_of(variant)
        _require_judgeable(variant, data=data, parity_frames=options.parity_frames)
    check_output(folder, force=force, needed_bytes=_needed_bytes(loaded.network, len(combinations)))
    return BuildPlan(
        checkpoint_path=path,
        checkpoint_bytes=path.stat().st_size,
        checkpoint=loaded,
        spec=spec,
        output=folder,
        variants=variants,
        data=None if data is None else Path(data),
        options=options,
    )


def changed_spec(spec: ModelSpec, changes: Mapping[str, Any]) -> ModelSpec:
    """A checkpoint's spec with some fields replaced.

    The box margins are in frame pixels and follow a change of the frame size, unless they are given too.

    Raises:
        UsageError: If the number of classes differs, or the result is impossible.
    """
    # Which network it is, loading has settled.
    changes = {name: value for name, value in changes.items() if name not in NETWORK_FIELDS}
    classes = changes.get("classes", spec.classes)
    if len(classes) != len(spec.classes):
        raise UsageError(
            f"--classes names {len(classes)} classes, but the checkpoint's classifier has {len(spec.classes)}. "
            f"Name them all, in its order: {', '.join(spec.classes)}."
        )
    frame_size_px = changes.get("frame_size_px")
    if frame_size_px is not None and "box" not in changes:
        scale_y, scale_x = (new / old for new, old in zip(frame_size_px, spec.frame_size_px, strict=True))
        box_d4 = spec.box_d4 and spec.box_d4.scaled((scale_x, scale_y))
        changes = {**changes, "box": spec.box.scaled((scale_x, scale_y)), "box_d4": box_d4}
    return msgspec.structs.replace(spec, **changes)


def _combinations(precision: Sequence[str], tta: Sequence[str]) -> list[tuple[Precision, Tta]]:
    """Every asked precision with every asked augmentation, in order and once."""
    for kind, given, known in (
        ("precision", precision, get_args(Precision)),
        ("tta", tta, get_args(Tta)),
    ):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            seen = repr(unknown[0]) if unknown else "empty"
            raise UsageError(f"--{kind} is {seen}; this version builds {', '.join(known)}.")
    pairs = dict.fromkeys((bits, augmentation) for bits in precision for augmentation in tta)
    return [msgspec.convert(pair, tuple[Precision, Tta]) for pair in pairs]


def _variant(precision: Precision, tta: Tta) -> Variant:
    suffix = "" if tta == "none" else f"-{tta}"
    # bf16 is no file of its own: an engine rounds the float32 one.
    stored = "fp32" if precision == "bf16" else precision
    return Variant(
        name=f"{precision}{suffix}",
        precision=precision,
        tta=tta,
        path=f"variants/{stored}{suffix}/model.onnx",
        opset=OPSET,
        tolerance=TOLERANCES[precision],
        certified=(),
    )


def _require_judgeable(variant: Variant, *, data: str | Path | None, parity_frames: int) -> None:
    """Refuse a precision that is judged on frames of a camera where there will be none."""
    if variant.tolerance.adversarial:
        return
    can_render = all(find_spec(module) for module in modules_of("render"))
    if parity_frames == 0 or (data is None and not can_render):
        raise UsageError(
            f"variant {variant.name} is judged on frames that a camera takes, and there would be none. Give some with "
            "--data DIR and leave --parity-frames above 0, or install the render extra: "
            "pip install 'spacecompile[render]'."
        )


def _needed_bytes(network: MultiTaskNetwork, num_variants: int) -> int:
    num_weights = sum(weight.numel() for weight in network.parameters())
    return num_variants * num_weights * _BYTES_PER_WEIGHT + _OTHER_FILES_BYTES
