"""Compiler from a trained multi-task perception network to a sealed bundle, and the slim runtime that runs it.

`load`, `open_bundle`, `verify`, `selftest`, `predict` and `compare` need the base install only. The others need an
extra (`compile`, `train` or `bench`), and say which where its packages are missing. Training is
`spacecompile.train.train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile import errors
from spacecompile._lazy import lazy_attributes
from spacecompile._version import __version__

if TYPE_CHECKING:
    from spacecompile.benchmarks.compare.compare import compare
    from spacecompile.benchmarks.compare.records import Comparison
    from spacecompile.benchmarks.result_records import BenchResult, read_result
    from spacecompile.benchmarks.score.evaluation import evaluate
    from spacecompile.benchmarks.score.records import Evaluation
    from spacecompile.benchmarks.settings import BenchSettings
    from spacecompile.benchmarks.suite import BenchRun, bench
    from spacecompile.box_rule import BoxRule
    from spacecompile.contract import ModelSpec
    from spacecompile.export.build import build
    from spacecompile.export.build_report import BuildReport
    from spacecompile.export.parity.recertify import Recertificate, recertify
    from spacecompile.export.plan import BuildOptions
    from spacecompile.prediction import Prediction, PredictOptions, predict
    from spacecompile.runtime.answer import Answer
    from spacecompile.runtime.bundle import Bundle, open_bundle
    from spacecompile.runtime.choice import Choice
    from spacecompile.runtime.guard import GuardRule
    from spacecompile.runtime.selftest import SelftestResult
    from spacecompile.runtime.session import Session, load
    from spacecompile.runtime.verify import VerifyReport, selftest, verify
    from spacecompile.train.box.calibrate import calibrate

__all__ = [
    "Answer",
    "BenchResult",
    "BenchRun",
    "BenchSettings",
    "BoxRule",
    "BuildOptions",
    "BuildReport",
    "Bundle",
    "Choice",
    "Comparison",
    "Evaluation",
    "GuardRule",
    "ModelSpec",
    "PredictOptions",
    "Prediction",
    "Recertificate",
    "SelftestResult",
    "Session",
    "VerifyReport",
    "__version__",
    "bench",
    "build",
    "calibrate",
    "compare",
    "errors",
    "evaluate",
    "load",
    "open_bundle",
    "predict",
    "read_result",
    "recertify",
    "selftest",
    "verify",
]

__getattr__ = lazy_attributes(
    "spacecompile",
    {
        "Answer": "spacecompile.runtime.answer",
        "BenchResult": "spacecompile.benchmarks.result_records",
        "BenchRun": "spacecompile.benchmarks.suite",
        "BenchSettings": "spacecompile.benchmarks.settings",
        "BoxRule": "spacecompile.box_rule",
        "BuildOptions": "spacecompile.export.plan",
        "BuildReport": "spacecompile.export.build_report",
        "Bundle": "spacecompile.runtime.bundle",
        "Choice": "spacecompile.runtime.choice",
        "Comparison": "spacecompile.benchmarks.compare.records",
        "Evaluation": "spacecompile.benchmarks.score.records",
        "GuardRule": "spacecompile.runtime.guard",
        "ModelSpec": "spacecompile.contract",
        "PredictOptions": "spacecompile.prediction",
        "Prediction": "spacecompile.prediction",
        "Recertificate": "spacecompile.export.parity.recertify",
        "SelftestResult": "spacecompile.runtime.selftest",
        "Session": "spacecompile.runtime.session",
        "VerifyReport": "spacecompile.runtime.verify",
        "bench": "spacecompile.benchmarks.suite",
        "build": "spacecompile.export.build",
        "calibrate": "spacecompile.train.box.calibrate",
        "compare": "spacecompile.benchmarks.compare.compare",
        "evaluate": "spacecompile.benchmarks.score.evaluation",
        "load": "spacecompile.runtime.session",
        "open_bundle": "spacecompile.runtime.bundle",
        "predict": "spacecompile.prediction",
        "read_result": "spacecompile.benchmarks.result_records",
        "recertify": "spacecompile.export.parity.recertify",
        "selftest": "spacecompile.runtime.verify",
        "verify": "spacecompile.runtime.verify",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
