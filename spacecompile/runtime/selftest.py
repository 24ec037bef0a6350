"""The bundle's own frames with PyTorch's answers: does a variant still give them, here, on this machine?

`selftest/expected.json` is a `Selftest` record; the frames lie beside it. Needs the base install only, so that it runs
on the target.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, Progress, Tolerance, Tta, Variant, no_progress
from spacecompile.errors import IntegrityError, MissingPartError, ParityError, PlanMismatchError
from spacecompile.record import Record
from spacecompile.rle import Rle, mask_from_rle, rle_from_mask
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends.registry import BACKENDS, certified_present, entry_named
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.session import Session, load

EXPECTED_PATH = "selftest/expected.json"


class StoredAnswer(Record):
    """PyTorch's answer for one frame, as the bundle stores it.

    Attributes:
        frame: Path of the frame inside the bundle.
        class_probs: Probabilities in the order of the spec's classes.
        box_xyxy: Half-open box in frame pixels.
        parts_rle: Mask of each part, in the order of `contract.PARTS`.
        adversarial: Whether no camera would take the frame; see `contract.Tolerance.adversarial`.
    """

    frame: str
    class_probs: tuple[float, ...]
    box_xyxy: tuple[float, float, float, float]
    parts_rle: tuple[Rle, ...]
    adversarial: bool = False


class Selftest(Record):
    """Content of `selftest/expected.json`: answers by test-time augmentation, since each gives its own."""

    answers: dict[Tta, tuple[StoredAnswer, ...]]


class VariantDeviation(Record):
    """How far a variant was from PyTorch over the self-test frames, at worst.

    Attributes:
        variant: Name of the variant.
        backend: Name and version of the backend that ran the variant.
        frames: Number of frames.
        class_agreement: Share of the frames with the same top class, 0 to 1.
        class_probs_max: Largest absolute error of any class probability.
        parts_iou_min: Least IoU per frame and part; two empty masks have IoU 1.
        parts_iou_mean: Mean IoU over frames and parts.
        box_px_max: Largest absolute error of any box edge, on the share of the frames that the tolerance asks for,
            rounded down: of three frames 90 % are two.
        box_px_worst: Largest absolute error of any box edge on any frame.
    """

    variant: str
    backend: str
    frames: int
    class_agreement: float
    class_probs_max: float
    parts_iou_min: float
    parts_iou_mean: float
    box_px_max: float
    box_px_worst: float


class NotTested(Record):
    """A variant that did not run on a backend, and why."""

    variant: str
    backend: str
    reason: str


class SelftestResult(Record):
    """What a self-test did.

    Attributes:
        deviations: Deviation of every variant on every backend that ran it; all are within their tolerance.
        not_tested: Variants and backends that did not run.
        files: Relative paths of the files that were read and hashed, in the order of reading.
    """

    deviations: tuple[VariantDeviation, ...]
    not_tested: tuple[NotTested, ...]
    files: tuple[str, ...]


def stored_answer(
    frame: str,
    *,
    class_probs_L: NDArray[np.float32],
    parts_HW: NDArray[np.uint8],
    box_xyxy: NDArray[np.float32],
    adversarial: bool = False,
) -> StoredAnswer:
    """Record the outputs of the reference for one frame of the bundle."""
    left, top, right, bottom = box_xyxy.tolist()
    masks_HW = [(parts_HW >> bit & 1).astype(np.bool_) for bit in range(len(PARTS))]
    return StoredAnswer(
        frame=frame,
        class_probs=tuple(class_probs_L.tolist()),
        box_xyxy=(left, top, right, bottom),
        parts_rle=tuple(map(rle_from_mask, masks_HW)),
        adversarial=adversarial,
    )


def run_selftest(
    bundle: Bundle,
    *,
    backend: str = "auto",
    variant: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> SelftestResult:
    """Run the variants over the self-test frames, each on the backends that are certified for it.

    Args:
        bundle: Bundle to test.
        backend: Name of the only backend to run on; `auto` for every backend that is present. A variant that is not
            certified on it, or that this CPU can't compute, is not tested, and the result says so. Under `auto` that
            holds for a plan that is made for another machine, too.
        variant: Name of the only variant to test; None for all.
        threads: Number of threads per operator; None for the physical cores that this process may use.
        progress: Called with the number of frames that were answered.

    Raises:
        UsageError: If the backend or the variant is unknown.
        IntegrityError: If the self-test of the bundle is missing or damaged.
        PlanMismatchError: If the backend that is named can't use a plan on this machine.
        ParityError: If a variant misses its tolerance.
        MissingPartError: If nothing could be tested.
    """
    if backend != "auto":
        entry_named(backend)
    asked = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    expected = _expected(bundle)
    runs, not_tested = _runs(asked, backend)
    counter = _Counter(progress, sum(len(_judged_cases(expected, chosen)) for chosen, _ in runs))
    deviations, files = [], [EXPECTED_PATH]
    for chosen, name in runs:
        cases = _judged_cases(expected, chosen)
        try:
            deviation = _deviation_of(bundle, chosen, cases, backend=name, threads=threads, counter=counter)
        except (MissingPartError, PlanMismatchError) as error:
            if isinstance(error, PlanMismatchError) and backend != "auto":
                raise
            not_tested.append(NotTested(variant=chosen.name, backend=name, reason=str(error)))
            counter.skip(len(cases))
            continue
        _refuse_beyond(deviation, chosen)
        deviations.append(deviation)
        files += [chosen.path, *(case.frame for case in cases)]
    if not deviations:
        raise _nothing_tested(asked, not_tested)
    return SelftestResult(deviations=tuple(deviations), not_tested=tuple(not_tested), files=tuple(dict.fromkeys(files)))


def _nothing_tested(asked: Sequence[Variant], not_tested: Sequence[NotTested]) -> MissingPartError:
    """Why, and which commands add a backend that is certified for one and not here."""
    names = ", ".join(variant.name for variant in asked)
    reasons = " ".join(f"{item.variant} on {item.backend}: {item.reason}" for item in not_tested)
    certified = {name for variant in asked for name in variant.certified}
    remedies = [entry.remedy for entry in BACKENDS if entry.name in certified and entry.missing() is not None]
    advice = f" Add a backend that is certified for one with: {', or: '.join(remedies)}" if remedies else ""
    return MissingPartError(f"none of the variants {names} can be tested: {reasons}{advice}")


def _judged_cases(expected: Selftest, variant: Variant) -> tuple[StoredAnswer, ...]:
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
        if self._done:
            self._progress("self-test", self._done, self._total)


def _runs(variants: Sequence[Variant], requested: str) -> tuple[list[tuple[Variant, str]], list[NotTested]]:
    """Which variant runs on which backend, and what does not."""
    runs, not_tested = [], []
    for variant in variants:
        present = certified_present(variant)
        reasons = {
            name: "it is certified on this backend, which is not present here or can't run it."
            for name in variant.certified
            if name not in present
        }
        if requested != "auto":
            uncertified = f"it is not certified on this backend, only on {', '.join(variant.certified) or 'none'}."
            reasons = {} if requested in present else {requested: reasons.get(requested, uncertified)}
        elif not variant.certified:
            reasons = {requested: "it is certified on no backend."}
        runs += [(variant, name) for name in present if requested in ("auto", name)]
        not_tested += [NotTested(variant=variant.name, backend=name, reason=reason) for name, reason in reasons.items()]
    return runs, not_tested


def _deviation_of(
    bundle: Bundle,
    variant: Variant,
    cases: Sequence[StoredAnswer],
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


def _frame(bundle: Bundle, case: StoredAnswer) -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415  only the self-test decodes, `load` does not pay for it

    with Image.open(io.BytesIO(bundle.read(case.frame))) as image:
        return np.asarray(image)


def _deviation(
    session: Session, answers: Sequence[Answer], cases: Sequence[StoredAnswer], *, box_share: float
) -> VariantDeviation:
    pairs = list(zip(answers, cases, strict=True))
    held = max(1, int(box_share * len(pairs)))
    box_errors_px = sorted(_error(answer.box_xyxy, case.box_xyxy) for answer, case in pairs)
    ious = [
        _iou(mask_HW, _mask(rle, mask_HW.shape, case.frame))
        for answer, case in pairs
        for mask_HW, rle in zip((answer.body_HW, answer.panel_HW), case.parts_rle, strict=True)
    ]
    return VariantDeviation(
        variant=session.choice.variant,
        backend=f"{session.choice.backend} {session.choice.backend_version}",
        frames=len(pairs),
        class_agreement=float(np.mean([answer.class_index == np.argmax(case.class_probs) for answer, case in pairs])),
        class_probs_max=max(_error(answer.class_probs, case.class_probs) for answer, case in pairs),
        parts_iou_min=min(ious),
        parts_iou_mean=float(np.mean(ious)),
        box_px_max=box_errors_px[held - 1],
        box_px_worst=box_errors_px[-1],
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
        f"mean parts IoU {deviation.parts_iou_mean:.5f}, at least {tolerance.parts_iou_mean_min} is required": (
            deviation.parts_iou_mean < tolerance.parts_iou_mean_min
        ),
        f"box off by {deviation.box_px_max:.3f} px, at most {tolerance.box_px_max} is allowed": (
            deviation.box_px_max > tolerance.box_px_max
        ),
        f"worst box off by {deviation.box_px_worst:.3f} px, at most {tolerance.box_px_worst} is allowed": (
            tolerance.box_px_worst is not None and deviation.box_px_worst > tolerance.box_px_worst
        ),
    }
    missed = [text for text, is_missed in misses.items() if is_missed]
    if missed:
        raise ParityError(
            f"variant {variant.name} on {deviation.backend} fails its self-test: {'; '.join(missed)}. Do not use it on "
            "this machine: try another backend or ONNX Runtime version, or build the bundle again here."
        )
