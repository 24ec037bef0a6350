"""The benchmark's scores of a checkpoint, or of the very files of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from spacecompile.benchmarks.agreement import answered_from_answer
from spacecompile.benchmarks.frame_stream import labelled_frames
from spacecompile.benchmarks.score.evaluate import evaluate as scores_of
from spacecompile.benchmarks.score.records import Evaluation
from spacecompile.contract import PrecisionWish, Progress, Tta, no_progress
from spacecompile.errors import UsageError
from spacecompile.extras import require_extra
from spacecompile.metrics import FORWARD_PASSES, with_cost
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.session import Session, load

if TYPE_CHECKING:
    from spacecompile.data.labels import LabelledFrame


def evaluate(  # noqa: PLR0913  each is a choice that `load` offers too
    source: Path | str,
    data: Path | str,
    *,
    split: str = "val",
    limit: int | None = None,
    variant: str | None = None,
    tta: Tta = "none",
    precision: PrecisionWish | None = None,
    backend: str = "auto",
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a checkpoint or a bundle on labelled frames.

    A bundle runs on the engine that ships; a checkpoint runs in float32 on PyTorch, from raw frame to answer.

    Example:
        spacecompile.evaluate("net.spacepkg", "frames/").scores.s_final

    Args:
        source: Checkpoint file or bundle folder.
        data: Folder of labelled frames in the SPARK format.
        split: Split of the data.
        limit: Number of frames to score, spread over the split; None for all.
        variant: Name of the bundle's graph, instead of augmentation and precision.
        tta: Test-time augmentation.
        precision: Precision of the bundle's graph; the most exact if None, `auto` for the fastest on this CPU.
        backend: Engine for a bundle.
        threads: Number of CPU threads; the usable cores if None.
        progress: Callback for progress.

    Raises:
        UsageError: If the source is not there, or the choices do not fit it.
        SpacecompileError: If the source or the frames can't be read.
    """
    source = Path(source)
    if not source.exists():
        raise UsageError(f"{source} does not exist. Name a checkpoint file or a bundle folder.")
    frames = labelled_frames(Path(data), split, limit)
    if source.is_dir():
        bundle = open_bundle(source)
        session = load(bundle, variant=variant, tta=tta, precision=precision, backend=backend, threads=threads)
        with session:
            return _of_session(bundle, session, frames, progress)
    chosen_tta = _checkpoint_tta(source, variant=variant, tta=tta, precision=precision, backend=backend)
    return _of_checkpoint(source, frames, progress, tta=chosen_tta, threads=threads)


def _of_session(bundle: Bundle, session: Session, frames: list[LabelledFrame], progress: Progress) -> Evaluation:
    manifest = bundle.manifest
    scores = scores_of(
        lambda frame_HWC: answered_from_answer(session(frame_HWC)),
        frames,
        spec=manifest.spec,
        cost=manifest.cost,
        progress=progress,
    )
    chosen = session.choice
    passes = FORWARD_PASSES[bundle.variant(chosen.variant).tta]
    return Evaluation(
        source=str(bundle.root),
        kind="bundle",
        source_sha256=manifest.source_sha256,
        variant=chosen.variant,
        backend=f"{chosen.backend} {chosen.backend_version}",
        threads=chosen.threads,
        cost=manifest.cost,
        forward_passes=passes,
        frames_asked=len(frames),
        has_parts=any(frame.has_parts for frame in frames),
        scores=scores,
        charged=with_cost(scores, manifest.cost, passes=passes),
    )


def _checkpoint_tta(source: Path, *, variant: str | None, tta: Tta, precision: str | None, backend: str) -> Tta:
    """The test-time augmentation that flags made for bundles mean for a checkpoint, always float32 on torch."""
    named_precision, _, named_tta = (variant or f"fp32-{tta}").partition("-")
    asked_precision = precision or named_precision
    if asked_precision != "fp32" or named_tta not in ("", *get_args(Tta)) or backend not in ("auto", "torch"):
        raise UsageError(
            f"{source} is a checkpoint, which runs in float32 on PyTorch; variant {variant}, precision {precision} and "
            f"backend {backend} do not fit. Leave them out, or build a bundle first with `spacecompile build`."
        )
    return cast("Tta", named_tta or "none")


def _of_checkpoint(
    path: Path, frames: list[LabelledFrame], progress: Progress, *, tta: Tta, threads: int | None
) -> Evaluation:
    require_extra("compile", "scoring a checkpoint")
    # PyTorch is not part of the base install.
    import torch  # noqa: PLC0415

    from spacecompile.benchmarks.score.torch_reference import TorchReference  # noqa: PLC0415
    from spacecompile.network.checkpoint import load_checkpoint  # noqa: PLC0415
    from spacecompile.runtime.threads import usable_cores  # noqa: PLC0415

    checkpoint = load_checkpoint(path)
    torch.set_num_threads(threads or usable_cores())
    reference = TorchReference(checkpoint, tta)
    cost = reference.cost()
    scores = scores_of(reference, frames, spec=checkpoint.spec, cost=cost, progress=progress)
    return Evaluation(
        source=str(path),
        kind="checkpoint",
        source_sha256=checkpoint.sha256,
        variant="fp32" if tta == "none" else f"fp32-{tta}",
        backend=reference.engine,
        threads=torch.get_num_threads(),
        cost=cost,
        forward_passes=FORWARD_PASSES[tta],
        assumed=(checkpoint.format, *checkpoint.assumed) if checkpoint.assumed else (),
        frames_asked=len(frames),
        has_parts=any(frame.has_parts for frame in frames),
        scores=scores,
        charged=with_cost(scores, cost, passes=FORWARD_PASSES[tta]),
    )
