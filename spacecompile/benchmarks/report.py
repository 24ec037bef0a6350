"""One offline HTML file of a benchmark result: tables, figures and pictures, no script, nothing fetched.

Needs the `report` extra.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from spacecompile.benchmarks.limit_records import WHERE
from spacecompile.benchmarks.pareto import trade_offs
from spacecompile.benchmarks.records import BenchResult, Latency, Ratio
from spacecompile.benchmarks.summary import percentile_of
from spacecompile.extras import require_extra
from spacecompile.metrics import Scores
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.overlay import draw_overlay

PICTURE_SIDE_PX = 560
PICTURE_QUALITY = 86
LAYERS_SHOWN = 20
"""The slowest of each variant; the results file holds all of them."""

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample answer.

    Attributes:
        jpeg_base64: The overlay.
        caption: Class, probability and flags.
    """

    jpeg_base64: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """One number at the top of the page."""

    value: str
    unit: str
    label: str


class _Verdict(msgspec.Struct):
    """What the page shows of one variant's part of `reports/parity.json`; further fields are ignored."""

    variant: str
    passed: bool
    num_frames: dict[str, int]
    class_agreement: float
    class_probs_max: float
    parts_iou_min: float
    box_px_max: float


class _Certificate(msgspec.Struct):
    """What the page shows of `reports/parity.json`."""

    variants: list[_Verdict]
    reference: str = ""
    backend: str = ""


def render_report(result: BenchResult, samples: Sequence[tuple[NDArray[np.uint8], Answer]] = ()) -> str:
    """The page.

    Args:
        result: Any section may be absent.
        samples: Frames with answers, for pictures.

    Raises:
        MissingPartError: If the `report` extra is not installed.
    """
    require_extra("report", "the report")
    # Only a report needs these two.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {name: Markup(markup) for name, markup in _figures(result).items()}
    return environment.get_template("report.html.j2").render(
        result=_without_unset(result),
        ratios=_ratios(result),
        key_figures=_key_figures(result),
        figures=figures,
        offers=trade_offs(result),
        where_labels=WHERE,
        layers_shown=LAYERS_SHOWN,
        certificate=_certificate(result),
        training=json.dumps(result.subject.checkpoint_training, indent=2),
        pictures=[_picture(frame_HWC, answer) for frame_HWC, answer in samples],
        cell=_percentile_text,
    )


def _without_unset(result: BenchResult) -> dict[str, Any]:
    """The sections by name, None where absent: what a template can ask for."""
    return {
        name: None if isinstance(value := getattr(result, name), UnsetType) else value
        for name in result.__struct_fields__
    }


def _certificate(result: BenchResult) -> _Certificate | None:
    """The parity report; None where the bundle holds none of this form."""
    try:
        return msgspec.convert(result.parity, _Certificate)
    except msgspec.ValidationError:
        return None


def _figures(result: BenchResult) -> dict[str, str]:
    from spacecompile.benchmarks import limit_plots, plots  # noqa: PLC0415 - matplotlib, only for a report

    figures = {}
    if not isinstance(result.latency, UnsetType) and result.latency.get("app"):
        app = result.latency["app"]
        figures = {"distribution": plots.latency_distribution(app), "over_time": plots.latency_over_time(app)}
    ratios = _ratios(result)
    if ratios:
        figures["ratios"] = plots.ratio_chart([(f"{variant} / {peer}", ratio) for variant, peer, ratio in ratios])
    if not isinstance(result.roofline, UnsetType) and result.roofline.ceilings and result.roofline.bandwidths:
        figures["roofline"] = limit_plots.roofline_chart(result.roofline)
        if result.roofline.profiles:
            figures["where"] = limit_plots.where_chart(result.roofline.profiles)
    if not isinstance(result.scaling, UnsetType) and result.scaling.curves:
        height_px, width_px = result.subject.input_size_px
        figures["scaling"] = limit_plots.scaling_chart(result.scaling, width_px / height_px)
    offers = trade_offs(result)
    if offers:
        figures["pareto"] = limit_plots.pareto_chart(offers)
    return figures


def _ratios(result: BenchResult) -> list[tuple[str, str, Ratio]]:
    """Variant, peer and ratio of every pair that was measured, by variant."""
    if isinstance(result.peers, UnsetType):
        return []
    found = [(variant, name, ratio) for name, peer in result.peers.items() for variant, ratio in peer.ratios.items()]
    order = list(result.subject.variant_bytes)
    return sorted(found, key=lambda row: order.index(row[0]))


def _key_figures(result: BenchResult) -> list[KeyFigure]:
    """What a reader wants first, from what was measured."""
    found = []
    variant, latency = _first_variant(result)
    if latency is not None and latency.p50_ms is not None:
        found.append(KeyFigure(value=f"{latency.p50_ms:.0f}", unit="ms", label=f"median, {variant}, frame to answer"))
    for name, peer, ratio in _ratios(result):
        if name == variant:
            found.append(KeyFigure(value=f"{ratio.ratio:.2f}", unit="x", label=f"the time of {peer}"))
    cost, before = result.budget.cost, result.budget.cost_source
    macs, macs_before = cost.macs_fvcore / 1e9, before.macs_fvcore / 1e9
    found.append(KeyFigure(value=f"{macs:.2f}", unit="GMAC", label=f"was {macs_before:.2f} before the rewrites"))
    found.append(KeyFigure(value=f"{cost.params / 1e6:.3f}", unit="M", label="parameters"))
    scores = _first_scores(result, variant)
    if scores is not None:
        found.append(KeyFigure(value=f"{scores.s_final:.4f}", unit="", label=f"S_final on {scores.frames} frames"))
    return found


def _first_variant(result: BenchResult) -> tuple[str, Latency | None]:
    """The first of the bundle that could run here."""
    skipped = {} if isinstance(result.skipped, UnsetType) else result.skipped
    names = list(result.subject.variant_bytes)
    variant = next((name for name in names if name not in skipped), names[0])
    if isinstance(result.latency, UnsetType):
        return variant, None
    return variant, result.latency.get("app", {}).get(variant)


def _first_scores(result: BenchResult, variant: str) -> Scores | None:
    return None if isinstance(result.score, UnsetType) else result.score.variants.get(variant)


def _percentile_text(latency: Latency, key: str) -> str:
    """A percentile for a table, or how many samples it lacks."""
    value = percentile_of(latency, key)
    return f"{value:,.1f}" if value is not None else f"{latency.missing_samples[key]:,} more"


def _picture(frame_HWC: NDArray[np.uint8], answer: Answer) -> Picture:
    image = draw_overlay(frame_HWC, answer)
    image.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=PICTURE_QUALITY)
    flags = f", {', '.join(flag.replace('_', ' ') for flag in answer.flags)}" if answer.flags else ""
    return Picture(
        jpeg_base64=base64.b64encode(stream.getvalue()).decode(),
        caption=f"{answer.class_name}, {100 * answer.class_prob:.1f} %{flags}",
    )
