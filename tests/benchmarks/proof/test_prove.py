"""The proof, rehearsed on a fake GPU with real engines and real PyTorch, and what it says where there is none."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from fake_cuda import FakeDevice
from fake_tensorrt import GPU, install

from spacecompile.benchmarks.latency.interleaved import LatencySettings
from spacecompile.benchmarks.latency.records import Ratio
from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.benchmarks.peers.table import PeerAnswer
from spacecompile.benchmarks.peers.torch_peers import EagerPeer
from spacecompile.benchmarks.proof.contestants import Proven
from spacecompile.benchmarks.proof.limits import DeviceCeilingSettings
from spacecompile.benchmarks.proof.prove import ProofInput, ProofSettings, prove, runs_on_gpu
from spacecompile.benchmarks.proof.records import Memory, Proof, Soak
from spacecompile.benchmarks.proof.targets import Findings, targets_of
from spacecompile.benchmarks.proof.torch_on_gpu import answers_on_gpu
from spacecompile.cli.main import main
from spacecompile.cli.prove import destination_of, error_of, say_proof
from spacecompile.contract import ModelSpec, Tta
from spacecompile.errors import (
    DeviceError,
    DeviceLostError,
    IntegrityError,
    InterruptedRunError,
    MissingPartError,
    ParityError,
)
from spacecompile.export.parity.frame_set import adversarial_frames
from spacecompile.export.parity.reference import ExpectedAnswer, expected_answers
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.cuda.driver import probe_cuda

SETTINGS = ProofSettings(
    latency=LatencySettings(
        rounds_min=12, duration_s=0, warmup_rounds=1, warmup_s=0, settle_max_ms=0, priming_calls=0, block_calls=1
    ),
    soak_frames=25,
    torch_device="cpu",
    ceilings=DeviceCeilingSettings(matrix_side=64, working_sets_bytes=(1 << 16, 1 << 20), seconds=0),
)
without_gpu = pytest.mark.skipif(probe_cuda().device is not None, reason="there is a GPU")


def on_cpu(given: ProofInput) -> tuple[ExpectedAnswer, ...]:
    graph = SealedGraph(given.checkpoint.network, given.checkpoint.spec, "none")
    return expected_answers(graph, given.frames, workers=1)


@pytest.fixture
def given(tiny_bundle: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ProofInput:
    device = FakeDevice(is_late=False)
    install(monkeypatch, tmp_path / "package", device)
    checkpoint = load_checkpoint(tiny_checkpoint)
    return ProofInput(
        bundle=open_bundle(tiny_bundle),
        checkpoint=checkpoint,
        frames=adversarial_frames(checkpoint.spec.frame_size_px)[:4],
        peers=[EagerPeer(checkpoint, threads=1)],
        missing_peers={"cuda-onnxruntime": "no GPU"},
        device=device,
        gpu=None,
    )


def test_a_rehearsal_shows_every_part_and_says_that_it_is_one(
    given: ProofInput, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    proof = prove(given, SETTINGS, progress=lambda *report: seen.add(report[0]))
    names = [f"{variant.name}@onnxruntime-cuda" for variant in given.bundle.manifest.variants]
    assert [(it.verdict.variant, it.against) for it in proof.parity] == [
        (variant.name, against)
        for tta in dict.fromkeys(variant.tta for variant in given.bundle.manifest.variants)
        for variant in given.bundle.manifest.variants
        if variant.tta == tta
        for against in ("pytorch-cpu", "pytorch-gpu")
    ]
    assert all(it.verdict.passed for it in proof.parity)
    assert list(proof.latency["app"]) == [*names, "pytorch-eager"]
    assert list(proof.latency["device"]) == names
    assert proof.latency["app"][names[0]].samples == 12
    assert proof.ratios[names[0]]["pytorch-eager"].rounds == 12
    assert proof.agreement["pytorch-eager"].frames == 4
    assert {name: soak.differing for name, soak in proof.soak.items()} == dict.fromkeys(names, 0)
    assert all(memory.loaded_bytes > 0 for memory in proof.memory.values())
    assert {memory.soak_bytes for memory in proof.memory.values()} == {0}
    check_limits(proof, *names)
    assert proof.rehearsal
    assert any("rehearsal" in gap for gap in proof.unproven)
    assert any(gap.startswith("tensorrt: the bundle has nothing that it runs") for gap in proof.unproven)
    assert any("cuda-onnxruntime: no GPU" in gap for gap in proof.unproven)
    assert {target.promise.split(" (")[0]: target.held for target in proof.targets}[
        "no memory of the GPU is allocated after warm-up"
    ]
    assert msgspec.json.decode(msgspec.json.encode(proof), type=Proof) == proof
    assert error_of(proof) is None
    say_proof(proof)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(rf"{names[0]}, scope device: [\d.e+-]+ ms, \d+% of what the GPU allows", said)
    assert f"soak {names[0]}" in seen
    assert not given.device.memory, "sessions and frames are off the GPU again"  # type: ignore[attr-defined]


def check_limits(proof: Proof, plain: str, d4: str) -> None:
    limits = proof.limits
    assert limits is not None
    assert [ceiling.precision for ceiling in limits.ceilings] == ["fp32"]
    assert {scope: list(by_name) for scope, by_name in limits.scopes.items()} == {"app": [plain], "device": [plain]}
    assert f"the limit of {d4}, scope app: 3 samples were timed, a median needs 11. Measure longer." in proof.unproven
    for scope, by_name in limits.scopes.items():
        limit, latency = by_name[plain], proof.latency[scope][plain]
        low_ms, high_ms = limit.measured_spread_ms
        assert latency.p50_ms is not None
        assert low_ms <= latency.p50_ms <= high_ms
        assert limit.runs == latency.samples
        assert limit.compute_ms == pytest.approx(limit.macs["fp32"] / limits.ceilings[0].gmacs_per_s / 1e6)
        assert limit.memory_ms == pytest.approx(limit.boundary_bytes / limits.bandwidths[-1].gb_per_s / 1e6)
        assert limit.share == pytest.approx(max(limit.compute_ms, limit.memory_ms) / limit.measured_ms)


def test_an_answer_that_changes_is_found_by_the_soak(given: ProofInput, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, calls = Proven.raw, []

    def unsteady(self: Proven, frame_HWC: Any) -> Any:
        answer = raw(self, frame_HWC)
        calls.append(self.name)
        if len(calls) % 10 == 0:
            answer.health[0] += 1
        return answer

    monkeypatch.setattr(Proven, "raw", unsteady)
    proof = prove(given, SETTINGS)
    assert sum(soak.differing for soak in proof.soak.values()) > 0
    error = error_of(proof)
    assert isinstance(error, ParityError)
    assert "another answer" in str(error)


def test_an_answer_that_is_not_pytorchs_fails_the_proof(given: ProofInput, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Proven.raw

    def wrong(self: Proven, frame_HWC: Any) -> Any:
        answer = raw(self, frame_HWC)
        answer.class_probs_L[:] = np.roll(answer.class_probs_L, 1)
        return answer

    monkeypatch.setattr(Proven, "raw", wrong)
    proof = prove(given, SETTINGS)
    assert not any(it.verdict.passed for it in proof.parity)
    assert isinstance(error_of(proof), ParityError)
    assert not proof.targets[-1].held


def test_an_interrupt_keeps_what_was_shown(given: ProofInput) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("soak"):
            raise KeyboardInterrupt

    proof = prove(given, SETTINGS, progress=interrupt)
    assert proof.partial
    assert proof.parity
    assert proof.latency["app"]
    assert not proof.soak
    assert isinstance(error_of(proof), InterruptedRunError)
    missing = [target for target in proof.targets if target.held is None]
    assert missing
    assert all(target.missing for target in missing)


def test_a_variant_that_can_not_be_loaded_is_a_gap_and_the_proof_goes_on(
    given: ProofInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Proven.opened

    def refuses(bundle: Any, variant: Any, entry: Any) -> Proven:
        if variant.name == "fp32-d4":
            raise IntegrityError("no such kernel.")
        return opened(bundle, variant, entry)

    monkeypatch.setattr(Proven, "opened", refuses)
    proof = prove(given, SETTINGS)
    assert {it.verdict.variant for it in proof.parity} == {"fp32"}
    assert list(proof.soak) == ["fp32@onnxruntime-cuda"]
    assert "fp32-d4@onnxruntime-cuda: no such kernel." in proof.unproven
    assert not proof.partial
    assert error_of(proof) is None


def test_a_proof_in_which_every_variant_fails_says_why_and_fails(
    given: ProofInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> Proven:
        raise IntegrityError("no such kernel.")

    monkeypatch.setattr(Proven, "opened", refuses)
    error = error_of(prove(given, SETTINGS))
    assert isinstance(error, DeviceError)
    assert "no such kernel" in str(error)


def test_a_gpu_that_is_lost_ends_the_proof_with_what_was_shown(
    given: ProofInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Any = given.device

    def lose(step: str, done: int, total: int) -> None:
        if step.startswith("soak"):
            device.fail("synchronize", "cudaErrorIllegalAddress")

    proof = prove(given, SETTINGS, progress=lose)
    device.sticky = ""
    assert proof.partial
    assert proof.parity
    assert proof.latency["app"]
    assert any("cudaErrorIllegalAddress" in gap for gap in proof.unproven)
    error = error_of(proof)
    assert isinstance(error, DeviceLostError)
    assert "marked as partial" in str(error)


@pytest.mark.parametrize("at_call", [1, 6], ids=["comparing answers", "in the race"])
def test_a_peer_that_raises_is_a_gap_and_the_proof_goes_on(
    given: ProofInput, at_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = EagerPeer.run, count(1)

    def run_or_fail(peer: EagerPeer, frame_HWC: Any) -> PeerAnswer:
        if next(calls) == at_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")
        return run(peer, frame_HWC)

    monkeypatch.setattr(EagerPeer, "run", run_or_fail)
    proof = prove(given, SETTINGS)
    reason = "it fails here: OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
    assert proof.missing_peers == {"cuda-onnxruntime": "no GPU", "pytorch-eager": reason}
    assert f"the race against pytorch-eager: {reason}" in proof.unproven
    assert "pytorch-eager" not in proof.latency["app"]
    assert proof.latency["app"]["fp32@onnxruntime-cuda"].samples == 12
    assert proof.soak
    assert not proof.partial
    assert error_of(proof) is None


def test_a_bug_on_the_way_is_a_gap_and_keeps_what_was_shown(
    given: ProofInput, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("spacecompile.benchmarks.proof.prove.proof_limits", fail)
    proof = prove(given, SETTINGS)
    assert any(gap.endswith("MemoryError. Check the free memory and the disk.") for gap in proof.unproven)
    assert "Traceback" in caplog.text
    assert proof.limits is None
    assert proof.parity
    assert proof.soak
    error = error_of(proof)
    assert error is not None, "what is not shown must not end like success"
    assert error.exit_code == 1
    assert "MemoryError" in str(error)


def test_a_reference_that_fails_costs_its_parity_and_nothing_else(
    given: ProofInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("spacecompile.benchmarks.proof.prove.reference_answers", fail)
    proof = prove(given, SETTINGS)
    assert not proof.parity
    assert proof.soak
    assert any("can't allocate memory" in gap for gap in proof.unproven)
    error = error_of(proof)
    assert error is not None
    assert error.exit_code == 1


def test_two_proofs_at_once_get_files_of_their_own(tmp_path: Path, given: ProofInput) -> None:
    first = Path(destination_of(str(tmp_path), GPU, force=False))
    first.write_text("{}")  # of the one that ends first
    assert destination_of(str(tmp_path), GPU, force=False) != str(first)


@pytest.fixture
def tf32() -> Iterator[None]:
    """Both switches of TF32 on, as a user may have them."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_a_gpu_that_pytorch_can_not_use_is_a_gap_and_leaves_pytorch_as_it_was(given: ProofInput) -> None:
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use the GPU")
    proof = prove(given, dataclasses.replace(SETTINGS, torch_device="cuda"))
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert {it.against for it in proof.parity} == {"pytorch-cpu"}
    assert all(it.verdict.passed for it in proof.parity)
    gaps = [gap for gap in proof.unproven if gap.startswith("parity with PyTorch on the GPU")]
    assert [gap.split(":")[0] for gap in gaps] == [
        f"parity with PyTorch on the GPU, tta {tta}"
        for tta in dict.fromkeys(variant.tta for variant in given.bundle.manifest.variants)
    ]
    assert all("PyTorch failed on the GPU" in gap for gap in gaps)


def test_the_network_stays_where_it_is_when_it_is_asked_on_another_device(given: ProofInput) -> None:
    with pytest.raises(DeviceError, match="PyTorch failed on the GPU"):
        # Nothing comes back from the meta device: as after an error that sticks, there is no way home for the weights.
        answers_on_gpu(given.checkpoint, "none", on_cpu(given), device="meta")
    assert {parameter.device.type for parameter in given.checkpoint.network.parameters()} == {"cpu"}


@pytest.mark.parametrize("tta", ["none", "d4", "d4-median"])
def test_the_reference_makes_nothing_on_another_device(tta: Tta) -> None:
    # The meta device refuses to mix with the CPU as CUDA does, and needs no GPU.
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.classes = torch.nn.Conv2d(3, 2, 3, 4, 1), torch.nn.Linear(2, 10)

        def forward(self, input_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features: torch.Tensor = self.parts(input_NCHW)
            return self.classes(features.mean(dim=(2, 3))), features

    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))
    graph = SealedGraph(Network(), spec, tta).to("meta")
    with torch.device("meta"):
        outputs = graph(torch.empty(128, 128, 3, dtype=torch.uint8))
    assert {output.device.type for output in outputs} == {"meta"}


FP16, FP16_D4 = "fp16@onnxruntime-cuda", "fp16-d4@onnxruntime-cuda"


def findings(*, plain_ms: float, d4_ms: float, device_ms: float, ratio: float, grown_bytes: int) -> Findings:
    return Findings(
        latency={
            "app": {FP16: summarise([plain_ms] * 11), FP16_D4: summarise([d4_ms] * 11)},
            "device": {FP16: summarise([device_ms] * 11)},
        },
        ratios={FP16: {"cuda-onnxruntime": Ratio(ratio=ratio, spread=(ratio, ratio), rounds=11)}},
        parity=(),
        memory={FP16: Memory(loaded_bytes=1, warm_bytes=0, soak_bytes=grown_bytes)},
        soak={FP16: Soak(frames=1, differing=0, graphs="")},
    )


@pytest.mark.parametrize(
    ("numbers", "held"),
    [
        pytest.param((1.0, 2.9, 0.6, 0.76, 0), (True, None, True, True, True, True, None), id="all kept"),
        pytest.param((1.0, 3.1, 0.61, 0.78, 8), (False, None, False, False, False, True, None), id="none kept"),
    ],
)
def test_targets_are_those_of_the_issue(numbers: tuple[float, ...], held: tuple[bool | None, ...]) -> None:
    plain_ms, d4_ms, device_ms, ratio, grown_bytes = numbers
    judged = targets_of(
        findings(plain_ms=plain_ms, d4_ms=d4_ms, device_ms=device_ms, ratio=ratio, grown_bytes=int(grown_bytes))
    )
    assert tuple(target.held for target in judged) == held


@without_gpu
def test_without_anything_for_a_gpu_there_is_nothing_to_prove(tiny_bundle: Path) -> None:
    with pytest.raises(MissingPartError, match="nothing of this bundle can be proven"):
        runs_on_gpu(open_bundle(tiny_bundle), [])


@without_gpu
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param([], 3, "nothing to prove on", id="no GPU"),
        pytest.param(["--device", "cpu"], 2, "give --device cuda", id="on the CPU"),
        pytest.param(["--device", "cuda:1"], 2, "set CUDA_VISIBLE_DEVICES=1", id="another GPU"),
        pytest.param(["--device", "tpu"], 2, "give cuda", id="no device"),
    ],
)
def test_the_command_says_what_it_needs(
    tiny_bundle: Path, flags: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prove", str(tiny_bundle), *flags]) == code
    assert message in capsys.readouterr().err
