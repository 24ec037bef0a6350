"""The ceilings of the device, measured with PyTorch on the CPU, and which file a variant's work is read from."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
import torch
from fake_tensorrt import sidecar_of

from spacecompile.benchmarks.proof.contestants import DeviceContestant, Proven
from spacecompile.benchmarks.proof.limits import DeviceCeilingSettings, onnx_of, proof_limits
from spacecompile.contract import FileFact, Variant
from spacecompile.errors import DeviceError, UsageError
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.session import load

SETTINGS = DeviceCeilingSettings(matrix_side=32, working_sets_bytes=(1 << 12, 1 << 20), seconds=0)


def with_plan(bundle: Bundle, onnx: bytes) -> tuple[Bundle, Variant]:
    """The bundle with a plan that says that it was built of an ONNX file."""
    sidecar = sidecar_of(b"plan", onnx_sha256=hashlib.sha256(onnx).hexdigest())
    plan = msgspec.structs.replace(bundle.variant("fp32"), name="trt-fp32-sm90", path="variants/trt/model.plan")
    contents = {plan.path: b"plan", f"{plan.path}.json": sidecar}
    (bundle.root / plan.path).parent.mkdir()
    for path, content in contents.items():
        (bundle.root / path).write_bytes(content)
    facts = {
        path: FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for path, content in contents.items()
    }
    manifest = msgspec.structs.replace(
        bundle.manifest, variants=(*bundle.manifest.variants, plan), files=bundle.manifest.files | facts
    )
    (bundle.root / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return open_bundle(bundle.root, verify=False), plan


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "net.spacepkg"), verify=False)


def test_a_plans_work_is_that_of_the_file_it_was_built_of(bundle: Bundle) -> None:
    onnx = bundle.read(bundle.variant("fp32").path)
    with_it, plan = with_plan(bundle, onnx)
    assert onnx_of(with_it, plan) == onnx == onnx_of(with_it, with_it.variant("fp32"))


def test_a_plan_whose_file_is_gone_has_no_limit(bundle: Bundle) -> None:
    without, plan = with_plan(bundle, b"an earlier one")
    with pytest.raises(UsageError, match=r"trt-fp32-sm90 was built of an ONNX file .*`spacecompile rebuild`"):
        onnx_of(without, plan)


@pytest.fixture
def tf32() -> Iterator[None]:
    """Not by `monkeypatch`, which takes what torch computes for what is not there."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_the_limit_counts_every_scope_that_was_timed_and_leaves_pytorch_as_it_was(bundle: Bundle, tf32: None) -> None:
    with load(bundle, backend="onnxruntime", variant="fp32", threads=1) as session:
        proven = Proven(bundle.variant("fp32"), session)
        app_ms = {
            proven.name: {number: float(number) for number in range(1, 12)},
            DeviceContestant.key(proven.name): {},
        }
        found = proof_limits(
            *(bundle, [proven], app_ms), device="cpu", settings=SETTINGS, gap_for=lambda _: nullcontext()
        )
    assert torch.backends.cuda.matmul.allow_tf32
    assert [rung.working_set_bytes for rung in found.bandwidths] == [1 << 12, 1 << 20]
    assert found.scopes["device"] == {}
    (limit,) = found.scopes["app"].values()
    assert (limit.measured_ms, limit.runs) == (6.0, 11)
    below = found.bandwidths[limit.boundary_bytes >= 1 << 20]
    assert limit.memory_ms == pytest.approx(limit.boundary_bytes / below.gb_per_s / 1e6)


def test_a_device_that_pytorch_can_not_use_is_an_error_of_the_device(bundle: Bundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use the GPU")
    with pytest.raises(DeviceError, match="PyTorch failed on the GPU"):
        proof_limits(bundle, [], {}, device="cuda", settings=SETTINGS, gap_for=lambda _: nullcontext())
