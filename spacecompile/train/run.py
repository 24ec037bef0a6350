"""One training run from a data folder to `model.pt`: epochs, box calibration, rounding to half, final scores."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import segmentation_models_pytorch as smp
import timm
import torch

from spacecompile._version import __version__
from spacecompile.contract import Cost, ModelSpec, Progress, no_progress
from spacecompile.data.labels import LabelledFrame, classes_of, spread, usable_split
from spacecompile.errors import DataError, OutputError, UsageError
from spacecompile.extras import require_extra
from spacecompile.files import remove_partial_files, write_file
from spacecompile.metrics import Scores
from spacecompile.network.checkpoint import load_checkpoint, round_to_half, save_checkpoint
from spacecompile.network.count import cost_of
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.box.rules import calibrated_box_rule
from spacecompile.train.device import DevicePlan, plan_device
from spacecompile.train.evaluate import answers, cases_from_answers, scores_from_answers
from spacecompile.train.event_log import LOG_FOLDER, event_log
from spacecompile.train.frames.dataset import Cache, TrainingFrames, ValidationFrames
from spacecompile.train.frames.store import frame_store
from spacecompile.train.freeze import refuse_frozen_noise, warn_of_small_statistics
from spacecompile.train.initial_network import initial_network
from spacecompile.train.loop import Callbacks, LoopInputs, run_epochs, steps_per_epoch
from spacecompile.train.page.gallery import Gallery
from spacecompile.train.page.page import PAGE_NAME, render_page
from spacecompile.train.processes import Launch, World, join
from spacecompile.train.recipe import Recipe
from spacecompile.train.run_folder import holds_something
from spacecompile.train.state import TrainingState, load_state, new_state
from spacecompile.train.teacher import Teacher, load_teacher

log = logging.getLogger(__name__)

CALIBRATION_FRAMES = 512
CALIBRATED_NAME = "calibrated.pt"
"""Where the next step that a run names puts the network: of the former weights once a run is overwritten."""
RUN_FILES = ("last.pt", "best.pt", "model.pt", "history.jsonl", "train.json", PAGE_NAME)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What to train, on what, where to.

    Attributes:
        data: Root of a data set in the SPARK format with the splits train and val.
        output: Folder of the run.
        recipe: Ignored when resuming: the run's own is used.
        spec_changes: Fields of `ModelSpec` that differ from the reference network's, or from those of `init`.
        init: Checkpoint whose weights and spec to start from.
        encoder_weights: Pretrained weights for a new network's encoder: `imagenet` or a file; None for none.
        transfer: Take what fits of `init`, whose network is another; see `initial_network`.
        resume: Go on from `output/last.pt`.
        force: Overwrite an earlier run.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        cache: Where decoded frames stay.
        workers: Processes that decode training frames; 0 for threads of this one.
        val_frames: Frames to validate on after each epoch, spread over the split; 0 for all.
        limit_frames: Training frames to use, spread over the split; 0 for all.
        command: Command that the user typed, for the records.
        teacher: Checkpoint to imitate. When resuming, the run's own is used.
        launch: How torchrun started this process; None when it trains alone.
        tensorboard: Write event files into the run's folder.
    """

    data: Path
    output: Path
    recipe: Recipe
    spec_changes: dict[str, Any] = field(default_factory=dict)
    init: Path | None = None
    encoder_weights: str | None = None
    transfer: bool = False
    resume: bool = False
    force: bool = False
    device: str = "auto"
    cache: Cache = "auto"
    workers: int = 0
    val_frames: int = 0
    limit_frames: int = 0
    command: str = ""
    teacher: Path | None = None
    launch: Launch | None = None
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a run gave.

    Attributes:
        checkpoint: Path of `model.pt`.
        checkpoint_bytes: Size of the checkpoint in bytes.
        scores: Scores of exactly these bytes, on the whole validation split.
        s_det_before: With the plain box rule instead of the calibrated one.
        elapsed_s: Time spent in training, over all resumptions.
    """

    checkpoint: Path
    checkpoint_bytes: int
    scores: Scores
    s_det_before: float
    elapsed_s: float


def train(job: TrainJob, *, callbacks: Callbacks | None = None, progress: Progress = no_progress) -> TrainReport:
    """Train a network and store it.

    Args:
        job: What to do.
        callbacks: Told after every step and epoch.
        progress: Told during calibration and final evaluation.

    Raises:
        DataError: If the data can't be read or its classes don't fit.
        OutputError: If the output exists, or can't be written.
        CheckpointError: If `init` or the state to resume is unusable.
        UsageError: If a setting makes no sense, or a run is resumed with other data.
        DivergedError: If loss, gradient or weights are no longer finite; the last good epoch stays on the disk.
        MissingPartError: If several processes or event files are asked for and their extra is not installed.

    With several processes, all of them get the same report; the first writes the files.
    """
    # Decaying moments and averages reach denormal numbers, which a CPU handles slowly. The mode is the whole process's.
    torch.set_flush_denormal(True)
    try:
        return _trained(job, callbacks or Callbacks(), progress)
    finally:
        torch.set_flush_denormal(False)


def _trained(job: TrainJob, callbacks: Callbacks, progress: Progress) -> TrainReport:
    if job.tensorboard:
        require_extra("tensorboard", "train --tensorboard")
    splits = train_split, val_split = [usable_split(job.data, split) for split in ("train", "val")]
    world = join(job.launch, job.device)
    state, plan = _prepared_state(_settled(job, train_split.frames), world)
    _require_same_data(state, job.data, " ".join(split.rows_sha256 for split in splits))
    state.note_broken([broken for split in splits for broken in split.broken])
    train_frames = train_split.spread(state.limit_frames)
    spec = state.network.spec
    batch_size = state.recipe.batch_size
    share = world.share_of(batch_size)  # refuses an uneven share before any folder is made
    steps_per_epoch(len(train_frames), state.recipe.batch_size)  # refuses too few frames before any folder is made
    inputs = LoopInputs(
        train_frames=TrainingFrames(
            train_frames,
            classes=spec.classes,
            input_size_px=spec.input_size_px,
            craft_views=state.recipe.zoom > 0,
            cache=job.cache if world.size == 1 or job.cache != "auto" else "none",
            processes=job.workers,
            store=frame_store(train_frames, job.data, spec.input_size_px) if job.cache == "disk" else None,
        ),
        val_frames=_validation_frames(val_split.spread(state.val_frames), spec, job.cache),
        plan=plan,
        cost=cost_of(MultiTaskNetwork(spec), spec.input_size_px),
        output=job.output,
        world=world,
        teacher=_teacher(state, plan),
    )
    if world.is_first:
        warn_of_small_statistics(
            state.network, state.recipe, batch_size if world.shares_statistics(state.recipe.sync_batchnorm) else share
        )
        log.info("%d training and %d validation frames, on %s", len(train_frames), len(val_split.frames), plan.name)
        if missing := set(spec.classes) - {frame.class_name for frame in train_frames}:
            log.warning("no training frame shows %s; these classes can't be learned", ", ".join(sorted(missing)))
    if world.is_first:
        _prepare_output(job, state.command)
    with event_log(job.output / LOG_FOLDER if job.tensorboard and world.is_first else None, state.steps_done) as logged:
        run_epochs(state, inputs, logged(callbacks))
    inputs.train_frames.stop_processes()  # their memory is better used now, and their death no longer matters
    facts = _facts(state, inputs, frames=len(train_frames))
    finals = _Finals(plan=plan, cost=inputs.cost, train=train_frames, val=val_split.frames)
    return world.from_first(lambda: _finish(job, state, facts, finals, progress))


def _require_same_data(state: TrainingState, data: Path, sha256: str) -> None:
    """The labels decide which frames are taken and in which order; a file that was lost is replaced."""
    if state.rows_sha256 not in ("", sha256):
        raise UsageError(
            f"the labels of {data} are not those that the run began with: names, classes, boxes or their order differ. "
            "Give the former --data with its former csv files, or start anew."
        )
    state.rows_sha256 = sha256


def _teacher(state: TrainingState, plan: DevicePlan) -> Teacher | None:
    if not state.teacher:
        return None
    spec = state.network.spec
    teacher, state.teacher_sha256 = load_teacher(
        Path(state.teacher),
        classes=spec.classes,
        input_size_px=spec.input_size_px,
        plan=plan,
        sha256=state.teacher_sha256,
    )
    return teacher


def _validation_frames(frames: Sequence[LabelledFrame], spec: ModelSpec, cache: Cache) -> ValidationFrames:
    return ValidationFrames(
        frames,
        classes=spec.classes,
        input_size_px=spec.input_size_px,
        frame_size_px=spec.frame_size_px,
        cache="auto" if cache == "disk" else cache,  # these are few, and stay in memory if they fit
    )


def _prepared_state(job: TrainJob, world: World) -> tuple[TrainingState, DevicePlan]:
    if job.resume and (job.force or job.init or job.transfer or job.teacher):
        raise UsageError(
            "--resume goes on with a run as it is; it can't be combined with --force, --init, --transfer or --teacher."
        )
    if job.init and job.encoder_weights:
        raise UsageError("--init brings the weights of the whole network; leave out --encoder-weights, or --init.")
    if not job.resume:
        refuse_frozen_noise(job.recipe, has_weights=bool(job.init or job.encoder_weights) and not job.transfer)
    if job.transfer and job.init is None:
        raise UsageError("--transfer takes weights of a checkpoint, and none is named. Name one with --init.")
    device = world.device_of(job.device)
    if job.resume:
        # The run's own recipe says whether mixed precision is wanted.
        stored = load_state(job.output / "last.pt", plan_device("cpu", amp=False))
        plan = plan_device(device, amp=stored.recipe.amp)
        return load_state(job.output / "last.pt", plan), plan
    _refuse_existing(job)
    plan = plan_device(device, amp=job.recipe.amp)
    torch.manual_seed(job.recipe.seed)
    told: list[str] = []
    network = initial_network(
        job.init, job.spec_changes, encoder_weights=job.encoder_weights, transfer=job.transfer, tell=told.append
    )
    for sentence in told:
        log.log(logging.WARNING if world.is_first else logging.DEBUG, sentence)
    state = new_state(network, job.recipe, plan)
    state.start = "".join(told) if job.encoder_weights else ""
    state.command, state.limit_frames, state.val_frames = job.command, job.limit_frames, job.val_frames
    state.teacher = str(job.teacher.resolve()) if job.teacher else ""
    return state, plan


def _refuse_existing(job: TrainJob) -> None:
    if job.output.exists() and not job.output.is_dir():
        raise OutputError(f"output {job.output} is a file. Choose another folder with --output.")
    if not job.force and job.output.is_dir() and holds_something(job.output):
        raise OutputError(
            f"output {job.output} exists and is not empty. Go on with --resume, overwrite with --force, or choose "
            "another folder with --output."
        )


def _settled(job: TrainJob, frames: Sequence[LabelledFrame]) -> TrainJob:
    """The job with what it leaves to the data; the checkpoint keeps what was found.

    A new network has the class order of the data's format. Boxes are learned by themselves where nothing else teaches
    them.
    """
    if job.init and job.transfer and "classes" not in job.spec_changes:
        known = initial_network(job.init, {}).spec.classes
        if not {frame.class_name for frame in frames} <= set(known):  # a new classifier, for what the data shows
            job = replace(job, spec_changes={**job.spec_changes, "classes": classes_of(frames)})
    if not (job.init or job.resume):
        named = job.spec_changes.get("classes")
        classes = classes_of(frames) if named is None else _required(tuple(named), frames)
        job = replace(job, spec_changes={**job.spec_changes, "classes": classes})
    if job.recipe.box_loss_weight is None:
        weight = 0.0 if any(frame.has_parts for frame in frames) else 1.0
        job = replace(job, recipe=msgspec.structs.replace(job.recipe, box_loss_weight=weight))
    return job


def _required(named: tuple[str, ...], frames: Sequence[LabelledFrame]) -> tuple[str, ...]:
    """The classes that the user named for a new network.

    Raises:
        DataError: If frames have others.
    """
    if unknown := sorted({frame.class_name for frame in frames} - set(named)):
        raise DataError(
            f"the frames have classes {unknown}, which are not among those named: {', '.join(named)}. Name all classes "
            "with --classes, or leave it out for the usual order of the data's format."
        )
    return named


def _prepare_output(job: TrainJob, command: str) -> None:
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        remove_partial_files(job.output)
        if not job.resume:
            for name in (*RUN_FILES, CALIBRATED_NAME):
                (job.output / name).unlink(missing_ok=True)
            if (job.output / LOG_FOLDER).is_dir():
                shutil.rmtree(job.output / LOG_FOLDER)
    except OSError as error:
        raise OutputError(
            f"can't use output folder {job.output}: {error.strerror}. Choose another --output."
        ) from error
    # An output that can't be written is found now, not after the first epoch.
    write_file(job.output / "train.json", json.dumps({"command": command, "finished": False}) + "\n")


def _facts(state: TrainingState, inputs: LoopInputs, *, frames: int) -> dict[str, Any]:
    plan = inputs.plan
    return {
        "command": state.command,
        "recipe": json.loads(msgspec.json.encode(state.recipe)),
        "epochs": state.epochs_done,
        "steps": state.steps_done,
        "frames": frames,
        "elapsed_s": round(state.elapsed_s, 1),
        "device": plan.name,
        "amp": str(plan.autocast_dtype).removeprefix("torch.") if plan.autocast_dtype else "float32",
        "threads": torch.get_num_threads(),
        "processes": inputs.world.size,
        **({"start": state.start} if state.start else {}),
        **({"teacher_sha256": state.teacher_sha256} if state.teacher else {}),
        "versions": {
            "spacecompile": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "segmentation_models_pytorch": smp.__version__,
            "timm": timm.__version__,
        },
    }


@dataclass(frozen=True, kw_only=True)
class _Finals:
    plan: DevicePlan
    cost: Cost
    train: Sequence[LabelledFrame]
    val: Sequence[LabelledFrame]


def _finish(
    job: TrainJob, state: TrainingState, facts: dict[str, Any], finals: _Finals, progress: Progress
) -> TrainReport:
    """Round the best weights, calibrate the box on training frames, score the result on all validation frames."""
    start_s = time.perf_counter()
    network = load_checkpoint(job.output / "best.pt").network
    round_to_half(network)
    network = network.to(finals.plan.device).to(memory_format=torch.channels_last)
    plan = replace(finals.plan, autocast_dtype=None)  # the stored scores are those of float32 inference
    plain = network.spec.box
    calibration_frames = _validation_frames(spread(finals.train, CALIBRATION_FRAMES), network.spec, "none")
    found = answers(network, calibration_frames, plan=plan, batch_size=16, step="calibrate boxes", progress=progress)
    cases = cases_from_answers(found)
    rule = calibrated_box_rule(cases, frame_size_px=network.spec.frame_size_px, start=plain)
    val_frames = _validation_frames(finals.val, network.spec, "none")
    gallery = Gallery(spec=network.spec, rule=rule)
    found = answers(network, val_frames, plan=plan, batch_size=16, step="final scores", progress=progress)
    before, scores = scores_from_answers(gallery.passing(found), (plain, rule), spec=network.spec, cost=finals.cost)
    network.spec = msgspec.structs.replace(network.spec, box=rule)
    state.note_broken((*calibration_frames.broken, *val_frames.broken))
    facts = {
        **facts,
        "broken_files": [*state.broken_files.values()],
        "scores": json.loads(msgspec.json.encode(scores)),
        "validation": {"split": "val", "frames": scores.frames, "frame_size_px": list(network.spec.frame_size_px)},
        "box_calibration": {
            "frames": len(cases),
            "s_det_before": before.s_det,
            "s_det_after": scores.s_det,
        },
    }
    path = job.output / "model.pt"
    save_checkpoint(path, network, training=facts, half=True)
    facts["spec"] = json.loads(msgspec.json.encode(network.spec))
    write_file(job.output / PAGE_NAME, render_page(facts=facts, history=state.history, scores=scores, gallery=gallery))
    facts["finish_s"] = round(time.perf_counter() - start_s, 1)
    write_file(job.output / "train.json", json.dumps({**facts, "finished": True}, indent=2) + "\n")
    return TrainReport(
        checkpoint=path,
        checkpoint_bytes=path.stat().st_size,
        scores=scores,
        s_det_before=before.s_det,
        elapsed_s=state.elapsed_s,
    )
