"""What the stages agree on: the model spec, the bundle manifest and their limits.

These records travel in checkpoints and manifests as JSON. They import neither torch nor onnx, so that the
slim runtime can read them.

Layout legend: H, W frame rows and columns; C channels; K part channels; N batch.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import msgspec

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.errors import UsageError
from spacecompile.record import Record

SCHEMA_VERSION = 1
"""Of the manifest. A reader refuses any other."""

CHECKPOINT_FORMAT = "spacecompile-checkpoint-1"

SPARK_CLASSES = (
    "VenusExpress",
    "Cheops",
    "LisaPathfinder",
    "ObservationSat1",
    "Proba2",
    "Proba3",
    "Proba3ocs",
    "Smart1",
    "Soho",
    "XMM Newton",
)
"""SPARK 2024/2026 classes in the order of the benchmark."""

PARTS = ("body", "panel")
"""Bit k of a parts mask is part k."""

HEALTH_SIGNALS = ("frame_mean", "frame_max", "body_px", "panel_px", "part_confidence", "view_disagreement")
"""Order of the sealed graph's `health` output, float32.

frame_mean, frame_max: of the frame as reduced to the network's input, 0 to 255. body_px, panel_px: set pixels per part
in the frame. part_confidence: the largest part probability anywhere, 0 to 1. view_disagreement: share of decoder pixels
whose D4 views do not all agree after thresholding, 0 to 1; 0 without test-time augmentation.
"""

INPUT_NAME = "frame"
OUTPUT_NAMES = ("class_probs", "parts", "box_xyxy", "health")
"""Tensor names of every sealed graph: uint8 [H, W, 3] -> float32 [classes], uint8 [H, W], float32 [4], float32 [6]."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a variant computes in. bf16 is no file of its own: it is the fp32 one, run by an engine that rounds."""

PrecisionWish = Literal["fp32", "fp16", "bf16", "int8", "auto"]
"""A precision, or the one that is fastest on this CPU."""

Tta = Literal["none", "d4", "d4-median"]


class Progress(Protocol):
    """How the library tells a caller where a long step is. It never prints itself."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Report `done` of `total` units of the step named `step`."""


def no_progress(step: str, done: int, total: int) -> None:
    """Ignore progress: the default of every library call."""


class ModelSpec(Record):
    """Everything about a network that its weights do not say.

    Attributes:
        architecture: Class name in `segmentation_models_pytorch`.
        encoder: smp encoder name, `tu-` prefix for timm.
        encoder_depth: Number of encoder stages, 3 to 5.
        decoder_options: Further keyword arguments of the smp class.
        class_pooling: What the classifier averages. `mean` is smp's own: the encoder's deepest features over the whole
            frame. `mask` takes these and the decoder's, weighted with the predicted parts.
        part_head: `plain` is smp's own head; `shuffle` gives part logits at twice the decoder's resolution.
        classes: Class names in the order of the classifier's outputs.
        dropout: Probability in the classification head; only training uses it.
        input_size_px: (height, width) of the network's input.
        frame_size_px: (height, width) of the camera frame.
        mean, std: Per RGB channel, of frames scaled to 0..1.
        mask_upsampling: How part logits reach frame size. Ours is half-pixel centres in one step; a foreign smp
            network keeps `align_corners` up to the input size first, then half-pixel to the frame.
        part_thresholds: Probability above which a pixel belongs to body and panel.
        part_logit_offset: To add to the network's part logits for true ones; only a rewritten network has any. Its
            thresholds are those of the logits that it gives.
        box: The box rule.
        box_d4: The one of graphs with D4 views, whose merged masks are smaller; None for the same.
        box_head: Regression head of the network; None without one.
    """

    architecture: str = "Segformer"
    encoder: str = "mit_b0"
    encoder_depth: int = 5
    decoder_options: dict[str, Any] = msgspec.field(default_factory=lambda: {"decoder_segmentation_channels": 128})
    class_pooling: Literal["mean", "mask"] = "mean"
    part_head: Literal["plain", "shuffle"] = "plain"
    classes: tuple[str, ...] = SPARK_CLASSES
    dropout: float = 0.2
    input_size_px: tuple[int, int] = (512, 512)
    frame_size_px: tuple[int, int] = (1024, 1024)
    mean: tuple[float, float, float] = (0.27, 0.26, 0.28)
    std: tuple[float, float, float] = (0.19, 0.19, 0.24)
    mask_upsampling: Literal["half_pixel", "align_corners"] = "half_pixel"
    part_thresholds: tuple[float, float] = (0.5, 0.5)
    part_logit_offset: float = 0.0
    box: BoxRule = BoxRule()
    box_d4: BoxRule | None = None
    box_head: BoxHead | None = None

    def box_of(self, tta: Tta) -> BoxRule:
        """The box rule of a graph with this augmentation."""
        return self.box if tta == "none" or self.box_d4 is None else self.box_d4

    def __post_init__(self) -> None:
        """Check the spec once.

        Raises:
            UsageError: If a value is outside what a network can have.
        """
        height_px, width_px = self.input_size_px
        if height_px < 64 or width_px < 64 or height_px % 32 or width_px % 32:
            raise UsageError(
                f"input size is {height_px}x{width_px}; every encoder needs multiples of 32, at least 64. "
                "Choose --imgsz accordingly, for example 512."
            )
        if min(self.frame_size_px) < 32:
            raise UsageError(f"frame size is {self.frame_size_px}; at least 32x32 pixels are needed. Check --frame.")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise UsageError(f"classes are {self.classes}; give at least two different names with --classes.")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise UsageError(
                f"mean is {self.mean}, std {self.std}; all must be finite and every std above zero. Check --mean and "
                "--std."
            )
        if not all(0 < threshold < 1 for threshold in self.part_thresholds):
            raise UsageError(f"thresholds are {self.part_thresholds}; each must lie between 0 and 1, both excluded.")
        if self.box_head is None and (self.box.residual or self.box_of("d4").residual):
            raise UsageError("the box rule moves the sides by a box head, but the network has none. Set `box_head`.")


class Tolerance(Record):
    """What a variant may differ from PyTorch by, judged task first.

    Attributes:
        class_agreement_min: Least share of frames with the same top class.
        class_probs_max: Largest absolute error of any class probability.
        parts_iou_min: Least IoU of any frame and part; two empty masks have IoU 1.
        parts_iou_mean_min: Least mean IoU over frames and parts, the measure of the benchmark's S_seg.
        box_px_max: Largest absolute error of any box edge in frame pixels, on `box_share_min` of the frames.
        box_share_min: Share of frames, 0 to 1, on which the boxes must hold.
        box_px_worst: Largest absolute error of any box edge on any frame; None where `box_px_max` holds on all.
        score_drop_max: Largest drop of S_final below PyTorch's, on frames that have labels; None where a drop is not
            judged because the answers are the same.
        adversarial: Whether adversarial frames are held to these limits too. Where not, their answers must be sound
            (finite, in range, in agreement with themselves), and are reported: no camera takes such a frame, and there
            is no right answer.
    """

    class_agreement_min: float
    class_probs_max: float
    parts_iou_min: float
    box_px_max: float
    parts_iou_mean_min: float = 0.0
    box_share_min: float = 1.0
    box_px_worst: float | None = None
    score_drop_max: float | None = None
    adversarial: bool = True


FP32_TOLERANCE = Tolerance(class_agreement_min=1.0, class_probs_max=1e-4, parts_iou_min=0.999, box_px_max=0.5)

_ROUNDED_TOLERANCE = Tolerance(
    class_agreement_min=0.995,
    class_probs_max=0.2,
    parts_iou_min=0.85,
    parts_iou_mean_min=0.98,
    box_px_max=2.0,
    box_share_min=0.9,
    box_px_worst=48.0,
    score_drop_max=0.003,
    adversarial=False,
)

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": FP32_TOLERANCE,
    "fp16": Tolerance(
        class_agreement_min=1.0,
        class_probs_max=0.01,
        parts_iou_min=0.995,
        parts_iou_mean_min=0.995,
        box_px_max=1.0,
        box_share_min=0.99,
        box_px_worst=8.0,
        score_drop_max=0.003,
    ),
    "bf16": _ROUNDED_TOLERANCE,
    "int8": _ROUNDED_TOLERANCE,
}
"""The profile of each precision.

fp16 holds on every frame. bf16 has eight bits of mantissa and int8 seven of magnitude: single pixels at the fringe of a
part flip, and now and then one of them is the outermost, so that masks are judged by their mean and boxes by most
frames, with a floor for every frame; what that costs the task is judged by the drop of the score.
"""


class Cost(Record):
    """Size and work of one forward pass of the network on one input, test-time augmentation not charged.

    Attributes:
        params: Number of parameters.
        macs_fvcore: Multiply-adds as fvcore counts them, the convention of the benchmark's "GFLOPs".
        macs_torch: Half of what `torch.utils.flop_counter.FlopCounterMode` counts.
    """

    params: int
    macs_fvcore: int
    macs_torch: int


class PassReport(Record):
    """What one rewrite pass did, with its proof.

    Attributes:
        name: Name of the pass.
        changed: Whether it rewrote anything.
        before, after: Cost of the whole network.
        relative_error: Largest |after - before| over largest |before|, in float64 on random input.
        skipped: Why the pass was left out although it had something to do; empty where it was not.
    """

    name: str
    changed: bool
    before: Cost
    after: Cost
    relative_error: float
    skipped: str = ""


class FileFact(Record):
    """Size and SHA-256 of one file of the bundle."""

    sha256: str
    bytes: int


class Variant(Record):
    """One sealed graph of the bundle.

    Attributes:
        name: `<precision>` or `<precision>-<tta>`, for example `fp32-d4`.
        precision: Precision of weights and activations.
        tta: Test-time augmentation inside the graph.
        path: Path of the graph file, relative to the bundle, with forward slashes.
        opset: ONNX opset of the graph.
        tolerance: Tolerance that the file was certified against.
        certified: Names of the backends that answered like PyTorch with this file when the bundle was built; `auto`
            chooses among these.
    """

    name: str
    precision: Precision
    tta: Tta
    path: str
    opset: int
    tolerance: Tolerance
    certified: tuple[str, ...] = ("onnxruntime",)


class Manifest(Record):
    """`manifest.json`: what a bundle is. It holds no time, host name or path outside the bundle.

    Attributes:
        schema_version: Version of this record.
        name: Name of the checkpoint's file, without its suffix: the same bytes come out wherever the bundle is put.
        spec: Spec of the network.
        health_signals: Names in the order of the graphs' `health` output.
        variants: In the order in which they were built.
        files: Every file of the bundle except `manifest.json` itself, by relative path.
        source_sha256: SHA-256 of the checkpoint file.
        source_format: What kind of checkpoint it was.
        training: The facts that the checkpoint holds about its training, such as validation scores.
        rewrites: One report per pass, in order.
        cost_source, cost: Before and after the rewrites.
        tools: Version of every package that shaped the bytes.
        licences: What the user must know of the licences of code that the weights come from.
    """

    schema_version: int
    name: str
    spec: ModelSpec
    health_signals: tuple[str, ...]
    variants: tuple[Variant, ...]
    files: dict[str, FileFact]
    source_sha256: str
    source_format: str
    training: dict[str, Any]
    rewrites: tuple[PassReport, ...]
    cost_source: Cost
    cost: Cost
    tools: dict[str, str]
    licences: tuple[str, ...]


class Budget(Record):
    """Limits of the benchmark, 100 GFLOP (multiply-adds counted once) and 30 M parameters, and those of a user.

    A limit that is None is not judged; one that is given and can't be judged counts as exceeded.

    Attributes:
        gmacs_max: Multiply-adds of one forward pass in units of 1e9, fvcore's count.
        mparams_max: Parameters in units of 1e6.
        file_mb_max: Graph file in units of 1e6 bytes.
        memory_mb_max: Peak resident memory of a process that runs the variant, in units of 1e6 bytes.
        load_ms_max: `load` in a fresh process.
        first_answer_ms_max: From the import in a fresh process to the first answer.
        p50_ms_max, p90_ms_max, p99_ms_max, max_ms_max: Latency from the frame in memory to the answer.
        score_drop_max: `s_final` below PyTorch's with the same augmentation; may be zero.
        variants: Names of the variants that the limits from `file_mb_max` on hold for; all that are measured when
            empty.
    """

    gmacs_max: float = 100.0
    mparams_max: float = 30.0
    file_mb_max: float | None = None
    memory_mb_max: float | None = None
    load_ms_max: float | None = None
    first_answer_ms_max: float | None = None
    p50_ms_max: float | None = None
    p90_ms_max: float | None = None
    p99_ms_max: float | None = None
    max_ms_max: float | None = None
    score_drop_max: float | None = None
    variants: tuple[str, ...] = ()


def is_safe_relative_path(path: str) -> bool:
    """Whether a path from a manifest stays inside the bundle: relative, forward slashes, no `..`."""
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path
