"""The bundle's own frames with PyTorch's answers: does a variant still give them, here, on this machine?

`selftest/expected.json` is a `Selftest` record; the frames lie beside it. Needs the base install only, so that it runs
on the target.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, Progress, Record, Tolerance, Tta, Variant, no_progress
from spacecompile.errors import IntegrityError, MissingPartError, ParityError
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends.registry import certified_present
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.rle import Rle, mask_from_rle, rle_from_mask
from spacecompile.runtime.session import Session, load

EXPECTED_PATH = "selftest/expected.json"

_log = logging.getLogger(__name__)


class ExpectedAnswer(Record):
    """What PyTorch answers for one frame.

    Attributes:
        frame: Path of the frame inside the bundle.
        class_probs: In the order of the spec's classes.
        box_xyxy: Half-open, in frame pixels.
        parts_rle: One mask per part, in the order of `contract.PARTS`.
        adversarial: Whether no camera would take the frame; see `contract.Tolerance.adversarial`.
    """

    frame: str
    class_probs: tuple[float, ...]
    box_xyxy: tuple[float, float, float, float]
    parts_rle: tuple[Rle, ...]
    adversarial: bool = False


class Selftest(Record):
    """Content of `selftest/expected.json`: answers by test-time augmentation, since each gives its own."""

    answers: dict[Tta, tuple[ExpectedAnswer, ...]]


class VariantDeviation(Record):
    """How far a variant was from PyTorch over the self-test frames, at worst.

    Attributes:
        variant: Its name.
        backend: That ran it, with its version.
        frames: Number of frames.
        class_agreement: Share of frames with the same top class.
        class_probs_max: Largest absolute error of any class probability.
        parts_iou_min: Least IoU per frame and part; two empty masks have IoU 1.
        box_px_max: Largest absolute error of any box edge, on the share of the frames that the tolerance asks for,
            rounded down: of three frames 90 % are two.
    """

    variant: str
    backend: str
    frames: int
    class_agreement: float
    class_probs_max: float
    parts_iou_min: float
    box_px_max: float


def expected_answer(
    frame: str,
    *,
    class_probs_L: NDArray[np.float32],
    parts_HW: NDArray[np.uint8],
    box_xyxy: NDArray[np.float32],
    adversarial: bool = False,
) -> ExpectedAnswer:
    """Record the outputs of the reference for one frame of the bundle."""
    left, top, right, bottom = box_xyxy.tolist()
    masks_HW = [(parts_HW >> bit & 1).astype(np.bool_) for bit in range(len(PARTS))]
    return ExpectedAnswer(
        frame=frame,
        class_probs=tuple(class_probs_L.tolist()),
        box_xyxy=(left, top, right, bottom),
        parts_rle=tuple(map(rle_from_mask, masks_HW)),
        adversarial=adversarial,
    )


def run_selftest(
    bundle: Bundle, *, backend: str = "auto", threads: int | None = None, progress: Progress = no_progress
) -> list[VariantDeviation]:
    """Run every variant over the self-test frames.

    Args:
        bundle: To test.
        backend: As in `load`, but `auto` runs each variant on every backend that is certified for it and present. One
            that none is present for, or that this CPU can't compute, is left out then, with a line in the log.
        threads: As in `load`.
        progress: Counts answered frames.

    Raises:
        IntegrityError: If the bundle has no self-test, or it is damaged.
        ParityError: If a variant misses its tolerance.
        MissingPartError: If no variant could be tested.
    """
    expected = _expected(bundle)
    runs = [(variant, name) for variant in bundle.manifest.variants for name in _backends_for(variant, backend)]
    counter = _Counter(progress, sum(len(_judged_cases(expected, variant)) for variant, _ in runs))
    deviations = []
    for variant, name in runs:
        cases = _judged_cases(expected, variant)
        try:
            deviation = _deviation_of(bundle, variant, cases, backend=name, threads=threads, counter=counter)
        except MissingPartError as error:
            if backend != "auto":
                raise
            _log.warning("variant %s is not tested: %s", variant.name, error)
            counter.skip(len(cases))
            continue
        _refuse_beyond(deviation, variant)
        deviations.append(deviation)
    if not deviations:
        raise MissingPartError(
            f"none of the variants {bundle.variant_names()} can be tested: no backend that is certified for one is "
            "present. Add one, for example with: pip install 'spacecompile[openvino]'"
        )
    return deviations


def _judged_cases(expected: Selftest, variant: Variant) -> tuple[ExpectedAnswer, ...]:
    """The frames that the variant's tolerance speaks of; all where it has no other."""
    cases = expected.answers[variant.tta]
    natural = tuple(case for case in cases if not case.adversarial)
    return natural if natural and not variant.tolerance.adversarial else cases


class _Counter:
    """Counts answered frames over all runs."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def step(self) -> None:
        self._done += 1
        self._progress("self-test", self._done, self._total)

    def skip(self, frames: int) -> None:
        self._total -= frames


def _backends_for(variant: Variant, requested: str) -> tuple[str, ...]:
    if requested != "auto":
        return (requested,)
    names = certified_present(variant)
    if not names:
        _log.warning(
            "variant %s is not tested: none of the backends that it is certified on is present: %s",
            *(variant.name, ", ".join(variant.certified)),
        )
    return names


def _deviation_of(
    bundle: Bundle,
    variant: Variant,
    cases: Sequence[ExpectedAnswer],
    *,
    backend: str,
    threads: int | None,
    counter: _Counter,
) -> VariantDeviation:
    with load(bundle, backend=backend, variant=variant.name, threads=threads) as session:
        answers = []
        for case in cases:
            answers.append(session(_frame(bundle, case)))
            counter.step()
        return _deviation(session, answers, cases, box_share=variant.tolerance.box_share_min)


def selftest_files(bundle: Bundle) -> tuple[str, ...]:
    """Relative paths of every file that the self-test reads, each hashed when it is read.

    Raises:
        IntegrityError: As `run_selftest`.
    """
    variants, expected = bundle.manifest.variants, _expected(bundle)
    frames = (case.frame for variant in variants for case in expected.answers[variant.tta])
    return tuple(dict.fromkeys((EXPECTED_PATH, *(variant.path for variant in variants), *frames)))


def _expected(bundle: Bundle) -> Selftest:
    try:
        selftest = msgspec.json.decode(bundle.read(EXPECTED_PATH), type=Selftest)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{bundle.root / EXPECTED_PATH} is malformed: {error}. Build the bundle again.") from error
    untested = {variant.tta for variant in bundle.manifest.variants} - selftest.answers.keys()
    if untested or not all(selftest.answers.values()):
        raise IntegrityError(
            f"{bundle.root / EXPECTED_PATH} holds no answers for {sorted(untested) or 'some variants'}. "
            "Build the bundle again."
        )
    return selftest


def _frame(bundle: Bundle, case: ExpectedAnswer) -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415  only the self-test decodes, `load` does not pay for it

    with Image.open(io.BytesIO(bundle.read(case.frame))) as image:
        return np.asarray(image)


def _deviation(
    session: Session, answers: Sequence[Answer], cases: Sequence[ExpectedAnswer], *, box_share: float
) -> VariantDeviation:
    pairs = list(zip(answers, cases, strict=True))
    held = max(1, int(box_share * len(pairs)))
    return VariantDeviation(
        variant=session.choice.variant,
        backend=f"{session.choice.backend} {session.choice.backend_version}",
        frames=len(pairs),
        class_agreement=float(np.mean([answer.class_index == np.argmax(case.class_probs) for answer, case in pairs])),
        class_probs_max=max(_error(answer.class_probs, case.class_probs) for answer, case in pairs),
        parts_iou_min=min(
            _iou(mask_HW, _mask(rle, mask_HW.shape, case.frame))
            for answer, case in pairs
            for mask_HW, rle in zip((answer.body_HW, answer.panel_HW), case.parts_rle, strict=True)
        ),
        box_px_max=sorted(_error(answer.box_xyxy, case.box_xyxy) for answer, case in pairs)[held - 1],
    )


def _mask(rle: Rle, shape: tuple[int, ...], frame: str) -> NDArray[np.bool_]:
    if tuple(rle["size"]) == shape:
        try:
            return mask_from_rle(rle)
        except (ValueError, IndexError) as error:
            raise IntegrityError(
                f"the expected mask of {frame} is malformed: {error}. Build the bundle again."
            ) from error
    raise IntegrityError(f"the expected mask of {frame} is {rle['size']}, the answer {shape}. Build the bundle again.")


def _error(values: NDArray[np.float32], expected: Sequence[float]) -> float:
    return float(np.abs(values.astype(np.float64) - np.asarray(expected)).max())


def _iou(mask_HW: NDArray[np.bool_], expected_HW: NDArray[np.bool_]) -> float:
    union_px = int((mask_HW | expected_HW).sum())
    return int((mask_HW & expected_HW).sum()) / union_px if union_px else 1.0


def _refuse_beyond(deviation: VariantDeviation, variant: Variant) -> None:
    tolerance: Tolerance = variant.tolerance
    misses = {
        f"class agreement {deviation.class_agreement:.3f}, at least {tolerance.class_agreement_min} is required": (
            deviation.class_agreement < tolerance.class_agreement_min
        ),
        f"class probabilities off by {deviation.class_probs_max:.2e}, at most {tolerance.class_probs_max} is allowed": (
            deviation.class_probs_max > tolerance.class_probs_max
        ),
        f"parts IoU {deviation.parts_iou_min:.5f}, at least {tolerance.parts_iou_min} is required": (
            deviation.parts_iou_min < tolerance.parts_iou_min
        ),
        f"box off by {deviation.box_px_max:.3f} px, at most {tolerance.box_px_max} is allowed": (
            deviation.box_px_max > tolerance.box_px_max
        ),
    }
    missed = [text for text, is_missed in misses.items() if is_missed]
    if missed:
        raise ParityError(
            f"variant {variant.name} on {deviation.backend} fails its self-test: {'; '.join(missed)}. Do not use it on "
            "this machine: try another backend or ONNX Runtime version, or build the bundle again here."
        )
