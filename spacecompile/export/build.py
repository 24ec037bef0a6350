"""The pipeline: checkpoint to certified bundle.

    plan -> rewrite -> for each variant: seal, export -> reference answers -> parity of each file -> self-test -> manifest
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import nn

from spacecompile import __version__
from spacecompile.contract import (
    HEALTH_SIGNALS,
    SCHEMA_VERSION,
    Cost,
    Manifest,
    PassReport,
    Progress,
    Record,
    Tta,
    Variant,
    no_progress,
)
from spacecompile.export.bundle_writer import BundleWriter, bundle_writer
from spacecompile.export.facts import licences_of, tool_versions
from spacecompile.export.frames import ParityFrame, parity_frames, spread
from spacecompile.export.parity import (
    ExpectedAnswer,
    ParityReport,
    VariantParity,
    check_parity,
    expected_answers,
    require_parity,
)
from spacecompile.export.plan import BuildOptions, BuildPlan, plan_build
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.sealed import SealedGraph
from spacecompile.export.selftest import write_selftest
from spacecompile.export.to_onnx import export_onnx
from spacecompile.network.count import cost_of
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.threads import usable_cores

PARITY_PATH = "reports/parity.json"
