"""From a checkpoint and labelled frames to the same checkpoint with the best box rule.

Every estimator is fitted and chosen on the training split alone, by cross-validation over trajectories, and reported on
the validation split, which decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec, Progress, Tta, no_progress
from spacecompile.data.labels import LabelledFrame, usable_split
from spacecompile.errors import OutputError, UsageError
from spacecompile.files import check_destination
from spacecompile.metrics import detection_score
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import BoxResidualHead, MultiTaskNetwork
from spacecompile.record import Record
from spacecompile.train.box.cases import Cases, box_cases
from spacecompile.train.box.head import HeadSamples, HeadSettings, corrected_ious, head_samples, trained_head
from spacecompile.train.box.rules import (
    FOLDS,
    calibrated,
    detection_score_of,
    folds_of,
    hard_rules,
    refitted,
    simplest_of_equals,
    soft_rules,
    supported_rules,
)
from spacecompile.train.device import DevicePlan, plan_device
from spacecompile.train.frames.dataset import ValidationFrames

CHECKPOINT_SUFFIXES = (".pt", ".safetensors")
HEAD_NAME = "regression head"


class Estimate(Record):
    """One way to a box.

    Attributes:
        name: Name of the estimator.
        tta: Augmentation of the graph that it is for.
        rule: Fitted on all training frames.
        s_det_train: On training frames, each judged by what frames of other trajectories taught.
        s_det_val: On validation frames.
        chosen: Whether the checkpoint keeps it.
    """

    name: str
    tta: Tta
    rule: BoxRule
    s_det_train: float
    s_det_val: float
    chosen: bool = False


class CalibrationReport(Record):
    """What a calibration found.

    Attributes:
        checkpoint: Path of the checkpoint that was written.
        train_frames, val_frames: How many could be used.
        estimates: In the order in which they were tried.
    """

    checkpoint: str
    train_frames: int
    val_frames: int
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, kw_only=True)
class CalibrationJob:
    """What to calibrate, on what, where to.

    Attributes:
        checkpoint: To read.
        data: Root of a data set in the SPARK format with the splits train and val.
        output: Checkpoint to write.
        tta: D4 views to calibrate a rule for as well; eight times the work.
        head: Settings of a box head to train; None for none.
        limit_frames, val_frames: Frames of each split, spread over it; 0 for all.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        force: Replace an output that is there.
    """

    checkpoint: Path
    data: Path
    output: Path
    tta: Tta = "none"
    head: HeadSettings | None = None
    limit_frames: int = 512
    val_frames: int = 0
    device: str = "auto"
    force: bool = False


class _Judged(NamedTuple):
    """An estimate, and the IoU of each training frame that it was judged by."""

    estimate: Estimate
    ious_N: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Both splits as the network sees them."""

    spec: ModelSpec
    train: Cases
    val: Cases

    @property
    def fold_N(self) -> NDArray[np.int64]:
        """Fold of each training case."""
        return folds_of(self.train.plain)

    def judged(self, name: str, tta: Tta, start: BoxRule, rules: Sequence[BoxRule]) -> _Judged:
        """Fit one estimator on the training split, and judge it on both."""
        train, val = (self.train.plain, self.val.plain) if tta == "none" else (self.train.d4, self.val.d4)
        size_px = self.spec.frame_size_px
        found = calibrated(train, frame_size_px=size_px, start=start, rules=rules, fold_N=self.fold_N)
        estimate = Estimate(
            name=name,
            tta=tta,
            rule=found.rule,
            s_det_train=found.s_det_folds,
            s_det_val=detection_score_of(found.rule, val, size_px),
        )
        return _Judged(estimate, found.ious_N)


def calibrate(job: CalibrationJob, *, progress: Progress = no_progress) -> CalibrationReport:
    """Compare all estimators, store the best in a copy of the checkpoint.

    Args:
        job: What to do.
        progress: Told after every batch.

    Raises:
        CheckpointError: If the checkpoint is unusable.
        DataError: If the data can't be read or its classes don't fit.
        OutputError: If the output exists, is not named like a checkpoint, or can't be written.
        UsageError: If there are too few frames, or views of an input that is not square are asked for.
    """
    _check_output(job)
    loaded = load_checkpoint(job.checkpoint)
    spec = _without_head(loaded.spec)
    _check_views(job, spec)
    plan = plan_device(job.device, amp=False)
    network = _network_without_head(loaded.network, spec).to(plan.device).to(memory_format=torch.channels_last)
    frames = _Frames(network=network, plan=plan, stores=_stores(job, spec), progress=progress)
    data = frames.data(job.tta)
    plain = _estimates(data, "none")
    head = None
    if job.head is not None:
        with_head, head = frames.head_training(data, _kept(plain).rule, job.head).judged()
        plain.append(with_head)
    d4 = _estimates(data, job.tta) if job.tta != "none" else []
    best, best_d4 = _kept(plain), _kept(d4) if d4 else None
    report = CalibrationReport(
        checkpoint=str(job.output),
        train_frames=len(data.train.plain),
        val_frames=len(data.val.plain),
        estimates=tuple(msgspec.structs.replace(each, chosen=each in (best, best_d4)) for each, _ in (*plain, *d4)),
    )
    network = _with_choice(network.cpu(), best, best_d4, head=head if best.name == HEAD_NAME else None, job=job)
    save_checkpoint(job.output, network, training=_facts(loaded.training, report), half=_is_half(network))
    return report


def _check_output(job: CalibrationJob) -> None:
    if job.output.suffix not in CHECKPOINT_SUFFIXES:
        raise OutputError(
            f"output {job.output} is no checkpoint by its name. End it in {' or '.join(CHECKPOINT_SUFFIXES)}."
        )
    check_destination(job.output, flag="--output", force=job.force)


def _check_views(job: CalibrationJob, spec: ModelSpec) -> None:
    if job.tta != "none" and spec.input_size_px[0] != spec.input_size_px[1]:
        raise UsageError(
            f"the views of {job.tta} need a square input, which {job.checkpoint} has not. Leave out --tta."
        )


def _stores(job: CalibrationJob, spec: ModelSpec) -> tuple[ValidationFrames, ValidationFrames]:
    """Training and validation frames."""
    train_frames = usable_split(job.data, "train").spread(job.limit_frames)
    val_frames = usable_split(job.data, "val").spread(job.val_frames)
    if len(train_frames) < 2 * FOLDS:
        raise UsageError(
            f"{len(train_frames)} training frames are too few to calibrate on; at least {2 * FOLDS} are needed. Render "
            "more frames or raise --limit-frames."
        )
    return _store(train_frames, spec), _store(val_frames, spec)


def _estimates(data: _Data, tta: Tta) -> list[_Judged]:
    """Everything that needs no training, for graphs with this augmentation."""
    stored = data.spec.box_of(tta)
    families: list[tuple[str, BoxRule, tuple[BoxRule, ...]]] = [
        ("as stored", stored, ()),
        ("min/max at 0.5", BoxRule(), ()),
        ("min/max", BoxRule(), hard_rules()),
        ("min/max with support", BoxRule(), supported_rules()),
        ("soft edges", BoxRule(), soft_rules()),
    ]
    if tta != "none":
        every = (*hard_rules(), *supported_rules(), *soft_rules())
        median = tuple(msgspec.structs.replace(rule, views="median") for rule in every)
        families.append(("median of boxes at 0.5", BoxRule(views="median"), ()))
        families.append(("median of boxes", BoxRule(views="median"), median))
    return [data.judged(name, tta, start, rules) for name, start, rules in families]


def _kept(judged: Sequence[_Judged]) -> Estimate:
    """The simplest that no other beats by more than chance on training frames."""
    return judged[simplest_of_equals([each.ious_N for each in judged])].estimate


@dataclass(frozen=True, kw_only=True)
class _HeadTraining:
    """A head on top of a rule, trained as often as its judgement needs."""

    data: _Data
    rule: BoxRule
    samples: HeadSamples
    val_samples: HeadSamples
    settings: HeadSettings
    progress: Progress

    @property
    def fold_N(self) -> torch.Tensor:
        """Fold of each sample."""
        return torch.from_numpy(self.data.fold_N)[self.samples.frame_N]

    def judged(self) -> tuple[_Judged, BoxResidualHead]:
        """Train once per fold to judge it, once more to keep."""
        size_px = self.data.spec.frame_size_px
        ious_N = np.zeros(len(self.data.fold_N))
        for fold in range(FOLDS):
            fold_rule = refitted(self.rule, self.data.train.plain, size_px, self.data.fold_N != fold)
            head = self._fitted(fold_rule, judged_fold=fold, step=f"box head, fold {fold + 1}")
            judged = self.samples.chosen((self.fold_N == fold) & ~self.samples.is_shifted_N)
            ious_N[judged.frame_N.numpy()] = corrected_ious(head, judged, fold_rule, size_px)
        head = self._fitted(self.rule, judged_fold=None, step="box head")
        head = head.half().float()  # as a file of half precision gives it back
        val_ious = np.zeros(len(self.data.val.plain))
        val_ious[self.val_samples.frame_N.numpy()] = corrected_ious(head, self.val_samples, self.rule, size_px)
        estimate = Estimate(
            name=HEAD_NAME,
            tta="none",
            rule=msgspec.structs.replace(self.rule, residual=True),
            s_det_train=detection_score(ious_N),
            s_det_val=detection_score(val_ious),
        )
        return _Judged(estimate, ious_N), head

    def _fitted(self, rule: BoxRule, *, judged_fold: int | None, step: str) -> BoxResidualHead:
        """A head that never saw the fold it is judged on, and stopped by the one behind it."""
        stop_fold = 0 if judged_fold is None else (judged_fold + 1) % FOLDS
        is_stop_N = self.fold_N == stop_fold
        is_fit_N = ~is_stop_N if judged_fold is None else ~is_stop_N & (self.fold_N != judged_fold)
        return trained_head(
            self.samples.chosen(is_fit_N),
            self.samples.chosen(is_stop_N & ~self.samples.is_shifted_N),
            rule,
            size_px=self.data.spec.frame_size_px,
            settings=self.settings,
            step=step,
            progress=self.progress,
        )


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Training and validation frames, and the network that sees them."""

    network: MultiTaskNetwork
    plan: DevicePlan
    stores: tuple[ValidationFrames, ValidationFrames]
    progress: Progress

    def data(self, tta: Tta) -> _Data:
        """What boxes are made of."""
        train, val = (
            box_cases(self.network, store, plan=self.plan, tta=tta, step=f"{name} frames", progress=self.progress)
            for store, name in zip(self.stores, ("training", "validation"), strict=True)
        )
        return _Data(spec=self.network.spec, train=train, val=val)

    def head_training(self, data: _Data, rule: BoxRule, settings: HeadSettings) -> _HeadTraining:
        """What a head on top of a rule learns from: only training frames are shifted."""
        samples, val_samples = (
            head_samples(
                self.network,
                store,
                rule,
                plan=self.plan,
                shifts=shifts,
                step=f"features, {name}",
                progress=self.progress,
            )
            for store, shifts, name in zip(self.stores, (settings.shifts, 0), ("training", "validation"), strict=True)
        )
        return _HeadTraining(
            data=data, rule=rule, samples=samples, val_samples=val_samples, settings=settings, progress=self.progress
        )


def _store(frames: Sequence[LabelledFrame], spec: ModelSpec) -> ValidationFrames:
    return ValidationFrames(
        frames, classes=spec.classes, input_size_px=spec.input_size_px, frame_size_px=spec.frame_size_px, cache="none"
    )


def _without_head(spec: ModelSpec) -> ModelSpec:
    """A head belongs to one rule; what is calibrated anew starts from the mask's box."""

    def plain(rule: BoxRule) -> BoxRule:
        return msgspec.structs.replace(rule, residual=False)

    box_d4 = None if spec.box_d4 is None else plain(spec.box_d4)
    return msgspec.structs.replace(spec, box=plain(spec.box), box_d4=box_d4, box_head=None)


def _network_without_head(network: MultiTaskNetwork, spec: ModelSpec) -> MultiTaskNetwork:
    network.box_head, network.spec = None, spec
    return network.eval()


def _with_choice(
    network: MultiTaskNetwork,
    best: Estimate,
    best_d4: Estimate | None,
    *,
    head: BoxResidualHead | None,
    job: CalibrationJob,
) -> MultiTaskNetwork:
    box_head = job.head.shape if head is not None and job.head is not None else None
    box_d4 = network.spec.box_d4 if best_d4 is None else best_d4.rule
    network.spec = msgspec.structs.replace(network.spec, box=best.rule, box_d4=box_d4, box_head=box_head)
    network.box_head = head
    return network


def _is_half(network: MultiTaskNetwork) -> bool:
    """Whether storing half precision loses nothing of the encoder: the file then had it."""
    weights = [tensor for tensor in network.encoder.state_dict().values() if tensor.is_floating_point()]
    return all(torch.equal(tensor, tensor.half().float()) for tensor in weights)


def _facts(training: dict[str, Any], report: CalibrationReport) -> dict[str, Any]:
    """The checkpoint's facts, with what this calibration found in the place of an earlier one."""
    calibration = json.loads(msgspec.json.encode(report))
    return {
        **training,
        "box_calibration": {name: calibration[name] for name in ("train_frames", "val_frames", "estimates")},
    }
