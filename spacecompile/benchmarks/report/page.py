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

from spacecompile.benchmarks.report.tables import tables_of
from spacecompile.benchmarks.report.trade_offs import trade_offs
from spacecompile.benchmarks.report.wording import (
    certificate_of,
    ending_of,
    engine_lines,
    key_figures,
    machine_lines,
    ratios_of,
)
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.extras import require_extra
from spacecompile.page.html import page_from
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.overlay import draw_overlay

PICTURE_SIDE_PX = 560
PICTURE_QUALITY = 86
_TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample answer.

    Attributes:
        jpeg_base64: Frame with the answer drawn on it, a JPEG file.
        caption: Class, its probability, and the answer's flags.
    """

    jpeg_base64: str
    caption: str


def render_report(result: BenchResult, samples: Sequence[tuple[NDArray[np.uint8], Answer]] = ()) -> str:
    """The page.

    Args:
        result: Result of a run; sections that it lacks are left out or say why.
        samples: Frames with their answers, shown as pictures.

    Raises:
        MissingPartError: If the `report` extra is not installed.
    """
    require_extra("report", "the report")
    return page_from(
        _TEMPLATE,
        figures=_figures(result),
        result=_without_unset(result),
        tables=tables_of(result),
        ending=ending_of(result),
        key_figures=key_figures(result),
        offers=trade_offs(result),
        certificate=certificate_of(result),
        engine_lines=engine_lines(result),
        machine_lines=machine_lines(result.environment.machine, result.environment.governor),
        training=json.dumps(result.subject.checkpoint_training, indent=2),
        pictures=[_picture(frame_HWC, answer) for frame_HWC, answer in samples],
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
    from spacecompile.benchmarks.report import plots  # noqa: PLC0415 - matplotlib, only for a report

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
