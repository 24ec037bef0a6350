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

import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from spacecompile.benchmarks.limits.records import WHERE
from spacecompile.benchmarks.report.trade_offs import trade_offs
from spacecompile.benchmarks.report.wording import (
    SCOPES,
    certificate_of,
    computed_in,
    ending_of,
    key_figures,
    machine_lines,
    percentile_keys,
    percentile_text,
    ratios_of,
    used_percent,
)
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.extras import require_extra
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
        ending=ending_of(result),
        ratios=ratios_of(result),
        peer_names=result.peer_names,
        key_figures=key_figures(result),
        figures=figures,
        offers=trade_offs(result),
        where_labels=WHERE,
        layers_shown=LAYERS_SHOWN,
        certificate=certificate_of(result),
        machine_lines=machine_lines(result.environment.machine, result.environment.governor),
        training=json.dumps(result.subject.checkpoint_training, indent=2),
        pictures=[_picture(frame_HWC, answer) for frame_HWC, answer in samples],
        cell=percentile_text,
        computed_in=computed_in,
        percentile_keys=percentile_keys,
        used_percent=used_percent,
        scopes=SCOPES,
    )


def _without_unset(result: BenchResult) -> dict[str, Any]:
    """The sections by name, None where absent: what a template can ask for."""
    return {
        name: None if isinstance(value := getattr(result, name), UnsetType) else value
        for name in result.__struct_fields__
    }


def _figures(result: BenchResult) -> dict[str, str]:
    from spacecompile.benchmarks.report import limit_plots  # noqa: PLC0415 - matplotlib, only for a report

    figures = _time_figures(result)
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


def _time_figures(result: BenchResult) -> dict[str, str]:
    from spacecompile.benchmarks.report import plots  # noqa: PLC0415 - likewise

    figures = {}
    if not isinstance(result.latency, UnsetType) and result.latency.get("app"):
        app, peers = result.latency["app"], result.peer_names
        figures["distribution"] = plots.latency_distribution(app, peers)
        figures["over_time"] = plots.latency_over_time(app, peers)
    if not isinstance(result.paced, UnsetType) and result.paced:
        figures["paced"] = plots.paced_chart(result.paced)
    if not isinstance(result.throughput, UnsetType) and any(result.throughput.values()):
        figures["throughput"] = plots.throughput_chart(result.throughput)
    ratios = ratios_of(result)
    if ratios:
        figures["ratios"] = plots.ratio_chart([(f"{variant} / {peer}", ratio) for variant, peer, ratio in ratios])
    return figures


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
