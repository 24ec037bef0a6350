"""The post's four phases of hyperparameters: each varies one thing, and its best is carried into the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from spacecompile.contract import Progress, no_progress
from spacecompile.errors import UsageError
from spacecompile.machine.environment import load_average
from spacecompile.search.candidates import default_of
from spacecompile.search.counting import INPUT_MULTIPLE_PX
from spacecompile.search.results import Phase, SearchResult
from spacecompile.search.study import SearchJob, circumstances, prepare, require_best, train_all, write_result
from spacecompile.train.named_recipes import NamedRecipe

_WIDTHS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "Segformer": ("decoder_segmentation_channels", (64, 128, 256)),
    "PAN": ("decoder_channels", (16, 32, 64)),
    "DeepLabV3Plus": ("decoder_channels", (128, 256)),
    "PSPNet": ("psp_out_channels", (256, 512)),
    "FPN": ("decoder_segmentation_channels", (64, 128)),
}
"""The option that is the decoder's width, and values around smp's default. Others have one width per stage."""


def learning_rates(base: NamedRecipe) -> tuple[NamedRecipe, ...]:
    """From a half to four times the peak, and the encoder's share: protected, or as the rest."""
    factors = [
        _with(base, f"lr-{base.recipe.lr * factor:.2g}", lr=base.recipe.lr * factor) for factor in (0.5, 1, 2, 4)
    ]
    other_scale = 0.1 if base.recipe.encoder_lr_scale > 0.3 else 1.0
    return (*factors, _with(base, f"encoder-lr-scale-{other_scale:g}", encoder_lr_scale=other_scale))


def width_and_resolution(base: NamedRecipe) -> tuple[NamedRecipe, ...]:
    """The decoder's widths, then one and a half times the input's size."""
    spec = base.model_spec()
    found = [_with(base, "as-before")]
    option, widths = _WIDTHS.get(spec.architecture, ("", ()))
    current = spec.decoder_options.get(option, default_of(spec.architecture, option))
    for width in widths:
        if width != current:
            options = {**spec.decoder_options, option: width}
            found.append(_with(base, f"width-{width}", spec={"decoder_options": options}))
    larger = [side_px * 3 // 2 // INPUT_MULTIPLE_PX * INPUT_MULTIPLE_PX for side_px in spec.input_size_px]
    found.append(_with(base, f"input-{larger[0]}", spec={"input_size_px": larger}))
    return tuple(found)


def augmentation_and_losses(base: NamedRecipe) -> tuple[NamedRecipe, ...]:
    """Every augmentation, then losses weighed otherwise, one at a time."""
    levels = [_with(base, f"augment-{level}", augment=level) for level in ("none", "light", "medium", "heavy")]
    weights: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dice-2", {"dice_weight": 2.0}),
        ("bce-2", {"bce_weight": 2.0}),
        ("lovasz", {"lovasz_weight": 1.0}),
        ("box", {"box_loss_weight": 1.0}),
        ("class-half", {"class_weight": 0.5}),
        ("class-2", {"class_weight": 2.0}),
        ("smoothing", {"label_smoothing": 0.05}),
    )
    return (*levels, *(_with(base, name, **changes) for name, changes in weights))


def refinement(base: NamedRecipe) -> tuple[NamedRecipe, ...]:
    """The learning rate again, in smaller steps and up to where the post's diverged."""
    steps = (0.7, 1.0, 1.4, 2.0, 2.8)
    return tuple(_with(base, f"lr-{base.recipe.lr * step:.2g}", lr=base.recipe.lr * step) for step in steps)


PHASES: dict[str, Callable[[NamedRecipe], tuple[NamedRecipe, ...]]] = {
    "learning-rate": learning_rates,
    "width-and-resolution": width_and_resolution,
    "augmentation-and-losses": augmentation_and_losses,
    "refinement": refinement,
}
"""In the post's order."""


def search_hyperparameters(
    base: NamedRecipe, job: SearchJob, *, phases: Sequence[str] = tuple(PHASES), progress: Progress = no_progress
) -> SearchResult:
    """Run the phases one after the other.

    A phase that is done is not trained again when resumed: Tune's state of it is read. Candidates of it that failed are
    not tried again either once a later phase has begun with its best. Candidates that diverge are listed and never
    carried forward.

    Args:
        base: To begin with.
        job: Settings of the search. Multiply-adds are counted at each candidate's own input, or where the job says a
            size at that size for the base's input and in proportion for larger ones.
        phases: Keys of `PHASES`, in order, each once.
        progress: Told the steps.

    Raises:
        OutputError, DataError, InterruptedRunError: As `search_architectures`.
        BuildError: If every candidate of a phase failed.
        UsageError: If a phase is unknown or comes twice.
    """
    start_s, load_start = time.perf_counter(), load_average()
    _check_phases(phases)
    prepare(job, (base,), phases=phases)
    best, done, base_size_px = base, [], base.model_spec().input_size_px
    for place, name in enumerate(phases, start=1):
        phase_job = _without_retries(job) if _has_any(job, phases[place:]) else job
        outcomes = train_all(PHASES[name](best), phase_job, name=name, charged_for_px=base_size_px, progress=progress)
        best = require_best(outcomes).candidate
        done.append(Phase(name=name, outcomes=outcomes, best=best.name))
    result = SearchResult(
        kind="hyperparameters",
        best=msgspec.structs.replace(
            best, name=f"{base.name}-tuned", note=f"best of {len(done)} phases from {base.name}"
        ),
        circumstances=circumstances(job, (base,), start_s=start_s, load_start=load_start),
        phases=tuple(done),
    )
    write_result(job, result)
    return result


def _has_any(job: SearchJob, phases: Sequence[str]) -> bool:
    return any((job.options.folder / name).exists() for name in phases)


def _without_retries(job: SearchJob) -> SearchJob:
    """Another best would make what is stored of the later phases that of another search."""
    return replace(job, options=replace(job.options, retry_failed=False))


def _check_phases(phases: Sequence[str]) -> None:
    for place, name in enumerate(phases):
        if name not in PHASES:
            raise UsageError(f"no phase is named {name!r}; --phases takes some of {', '.join(PHASES)}.")
        if name in phases[:place]:
            raise UsageError(f"phase {name} comes twice in --phases. Name each phase once.")


def _with(base: NamedRecipe, name: str, *, spec: dict[str, Any] | None = None, **recipe: Any) -> NamedRecipe:
    return NamedRecipe(
        name=name,
        note=f"from {base.name}",
        spec={**base.spec, **(spec or {})},
        recipe=msgspec.structs.replace(base.recipe, **recipe),
    )
