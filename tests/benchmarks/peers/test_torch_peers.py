"""The peers share no code with the sealed graph: where they agree with it, both are right."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from craft_frames import FRAME_SIZE_PX, FRAMES_HWC, TINY_SPEC, given_by
from torch import nn

from spacecompile.benchmarks.agreement import Answered, compare, tolerance_for
from spacecompile.benchmarks.peers import torch_peers
from spacecompile.benchmarks.peers.plain_exports import PlainExportPeer, cuda_onnxruntime, cuda_tensorrt, export_plain
from spacecompile.benchmarks.peers.table import (
    PEERS,
    PeerContestant,
    PeerEntry,
    answered_from_peer,
    chosen_peers,
    open_peers,
)
from spacecompile.benchmarks.peers.torch_peers import CompiledPeer, CudaEagerPeer, EagerPeer, plain_smp_network
from spacecompile.benchmarks.score.torch_reference import TorchReference
from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint, load_source, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork

QUICK = [entry for entry in PEERS if not entry.cuda and entry.name != "torch-compile"]
"""What opens in seconds on any machine that has the packages."""

PLAIN = [entry.name for entry in QUICK if entry.tta == "none"]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> LoadedCheckpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def peers(tiny_checkpoint: Path) -> Iterator[dict[str, PeerContestant]]:
    spec = load_checkpoint(tiny_checkpoint).spec
    opened, missing = open_peers(tiny_checkpoint, spec, threads=1, entries=QUICK)
    assert missing == {}
    yield {peer.name: peer for peer in opened}
    for peer in opened:
        peer.close()


@pytest.fixture(scope="module")
def sealed_answers(loaded: LoadedCheckpoint) -> list[Answered]:
    reference = TorchReference(loaded, "none")
    return [reference(frame_HWC) for frame_HWC in FRAMES_HWC]


def test_every_row_of_the_table_opens_under_its_name(peers: dict[str, PeerContestant]) -> None:
    assert list(peers) == [entry.name for entry in QUICK]
    assert all(peer.versions for peer in peers.values())
    assert {name: peer.tta for name, peer in peers.items()} == {entry.name: entry.tta for entry in QUICK}


@pytest.mark.parametrize(
    ("name", "probs_max"),
    [
        # The same area averaging on the way in.
        ("pytorch-eager", 1e-4),
        # Pillow's filter is wider than averaging two pixels, which tells on such small crafts.
        *((name, 0.3) for name in PLAIN if name != "pytorch-eager"),
    ],
)
def test_a_peer_agrees_with_the_sealed_graph_up_to_resize_geometry(
    peers: dict[str, PeerContestant],
    loaded: LoadedCheckpoint,
    sealed_answers: list[Answered],
    name: str,
    probs_max: float,
) -> None:
    assert all(answer.parts_HW.any() for answer in sealed_answers)
    agreement = compare(given_by(peers[name]), sealed_answers, tolerance_for(loaded.spec))
    assert agreement.same
    assert agreement.class_agreement == 1
    assert agreement.class_probs_max <= probs_max
    # One step of half-pixel upsampling and smp's `align_corners` are up to half a decoder pixel apart, 4 px here; a
    # craft of 36 px loses about a tenth of its IoU by that.
    assert agreement.box_px_max <= 4
    assert agreement.parts_iou_mean >= 0.85


def test_with_smp_s_upsampling_in_the_sealed_graph_eager_agrees_to_the_pixel(
    peers: dict[str, PeerContestant], loaded: LoadedCheckpoint
) -> None:
    spec = msgspec.structs.replace(loaded.spec, mask_upsampling="align_corners")
    reference = TorchReference(dataclasses.replace(loaded, spec=spec), "none")
    agreement = compare(given_by(peers["pytorch-eager"]), [reference(frame_HWC) for frame_HWC in FRAMES_HWC])
    assert agreement.class_agreement == 1
    assert agreement.box_px_max <= 1
    # Logits are interpolated here and probabilities there, which moves an edge by less than a pixel.
    assert agreement.parts_iou_mean >= 0.97


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("plain-export", "pytorch-eager")])
def test_every_engine_of_the_plain_export_gives_its_answers(peers: dict[str, PeerContestant], name: str) -> None:
    agreement = compare(given_by(peers[name]), given_by(peers["plain-export"]))
    assert agreement.class_agreement == 1
    assert agreement.class_probs_max <= 1e-4
    assert agreement.parts_iou_min >= 0.999


def test_the_plain_export_and_eager_agree_more_closely(peers: dict[str, PeerContestant]) -> None:
    agreement = compare(given_by(peers["plain-export"]), given_by(peers["pytorch-eager"]))
    assert agreement.class_agreement == 1
    assert agreement.parts_iou_mean >= 0.97
    assert agreement.box_px_max <= 2


def test_ttach_s_eight_views_agree_with_those_of_the_sealed_graph(
    peers: dict[str, PeerContestant], loaded: LoadedCheckpoint
) -> None:
    reference = TorchReference(loaded, "d4")
    expected = [reference(frame_HWC) for frame_HWC in FRAMES_HWC]
    agreement = compare(given_by(peers["ttach-d4"]), expected, tolerance_for(loaded.spec))
    assert agreement.same
    assert agreement.class_probs_max <= 1e-3
    plain = compare(given_by(peers["pytorch-eager"]), expected, tolerance_for(loaded.spec))
    # Without the views the probabilities are others: the test would notice if ttach's were left out.
    assert plain.class_probs_max > 10 * agreement.class_probs_max


def test_a_checkpoint_is_exported_once_for_all_engines(loaded: LoadedCheckpoint) -> None:
    assert export_plain(loaded) is export_plain(loaded)
    assert export_plain(dataclasses.replace(loaded)) is not export_plain(loaded)


def test_swapped_channels_would_be_noticed(
    peers: dict[str, PeerContestant], loaded: LoadedCheckpoint, sealed_answers: list[Answered]
) -> None:
    swapped = [np.ascontiguousarray(frame_HWC[..., ::-1]) for frame_HWC in FRAMES_HWC]
    given = [answered_from_peer(peers["plain-export"].run(frame_HWC)) for frame_HWC in swapped]
    assert not compare(given, sealed_answers, tolerance_for(loaded.spec)).same


@pytest.mark.parametrize("name", [entry.name for entry in QUICK])
def test_a_frame_without_a_craft_gives_no_box(peers: dict[str, PeerContestant], name: str) -> None:
    answer = answered_from_peer(peers[name].run(np.zeros((*FRAME_SIZE_PX, 3), np.uint8)))
    assert not answer.parts_HW.any()
    assert answer.box_xyxy.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", [entry.name for entry in QUICK])
def test_a_peer_tells_its_engine_apart(peers: dict[str, PeerContestant], name: str) -> None:
    peers[name].run(FRAMES_HWC[0])
    assert peers[name].scopes_ms()["engine"] > 0


def test_an_engine_that_copies_to_a_gpu_is_timed_with_its_copies(
    loaded: LoadedCheckpoint, peers: dict[str, PeerContestant]
) -> None:
    on_cpu = peers["plain-export"]
    assert isinstance(on_cpu, PlainExportPeer)
    assert on_cpu._engine is not None
    as_on_gpu = PlainExportPeer(loaded, on_cpu._engine, name="copies", on_gpu=True)
    as_on_gpu.run(FRAMES_HWC[0])
    assert as_on_gpu.scopes_ms().keys() == {"device"}


def test_the_plain_network_is_smp_s_own_with_its_upsampling(loaded: LoadedCheckpoint) -> None:
    network = plain_smp_network(loaded)
    assert type(network).__module__.startswith("segmentation_models_pytorch")
    (upsampling,) = (module for module in network.modules() if isinstance(module, nn.Upsample))
    assert upsampling.align_corners
    part_logits_NKhw, class_logits_NL = network(torch.zeros(1, 3, *loaded.spec.input_size_px))
    assert part_logits_NKhw.shape == (1, 2, *loaded.spec.input_size_px)
    assert class_logits_NL.shape == (1, 10)


@pytest.mark.parametrize("part_head", ["plain", "shuffle"])
def test_a_class_pooled_under_the_mask_and_a_cut_encoder_are_the_peers_too(part_head: str, tmp_path: Path) -> None:
    spec = ModelSpec(
        encoder="tu-mobilenetv4_conv_small",
        encoder_depth=4,
        class_pooling="mask",
        part_head=part_head,
        input_size_px=(64, 64),
    )
    save_checkpoint(tmp_path / "pooled.pt", MultiTaskNetwork(spec), training={})
    loaded = load_checkpoint(tmp_path / "pooled.pt")
    input_NCHW = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        masks_NKHW, class_logits_NL = plain_smp_network(loaded)(input_NCHW)
        expected_NL, part_logits_NKhw = loaded.network(input_NCHW)
    torch.testing.assert_close(class_logits_NL, expected_NL)
    upsampled_NKHW = nn.functional.interpolate(part_logits_NKhw, (64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(masks_NKHW, upsampled_NKHW)


def test_a_closed_eager_peer_leaves_torch_s_threads_as_they_were(loaded: LoadedCheckpoint) -> None:
    before = torch.get_num_threads()
    peer = EagerPeer(loaded, threads=before + 1)
    assert torch.get_num_threads() == before + 1
    peer.close()
    assert torch.get_num_threads() == before


def test_without_a_checkpoint_every_peer_is_missing_with_the_reason() -> None:
    opened, missing = open_peers("give --checkpoint", TINY_SPEC, threads=1, entries=PEERS)
    assert opened == []
    assert missing == {entry.name: "give --checkpoint" for entry in PEERS}


def test_a_broken_checkpoint_makes_the_peers_missing_not_the_run_fail(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(b"not a checkpoint")
    opened, missing = open_peers(path, TINY_SPEC, threads=1, entries=QUICK)
    assert opened == []
    assert all("broken.pt" in reason for reason in missing.values())


def test_without_the_compiler_the_command_that_adds_it_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spacecompile.network.checkpoint", None)
    opened, missing = open_peers(tiny_checkpoint, TINY_SPEC, threads=1, entries=QUICK)
    assert opened == []
    assert all("pip install 'spacecompile[compile]'" in reason for reason in missing.values())


@pytest.mark.parametrize(
    ("package", "peer", "extra"),
    [("ttach", "ttach-d4", "bench"), ("onnxslim", "plain-onnxslim", "bench")],
)
def test_a_peer_whose_package_is_missing_is_listed_with_its_command_and_the_others_run(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, package: str, peer: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    entries = [entry for entry in PEERS if entry.name in (peer, "pytorch-eager")]
    opened, missing = open_peers(tiny_checkpoint, TINY_SPEC, threads=1, entries=entries)
    assert [one.name for one in opened] == ["pytorch-eager"]
    assert missing == {
        peer: f"the package {package} is not installed; add it with: pip install 'spacecompile[{extra}]'"
    }
    opened[0].close()


def test_peers_with_views_take_part_only_beside_a_variant_with_views() -> None:
    assert [entry.name for entry in chosen_peers((), ["none"], gpu=False)] == [*PLAIN, "torch-compile"]
    assert "ttach-d4" in [entry.name for entry in chosen_peers((), ["none", "d4"], gpu=False)]


def test_peers_on_a_gpu_are_spoken_of_where_there_is_one_or_when_named() -> None:
    on_gpu = {entry.name for entry in PEERS if entry.cuda}
    assert on_gpu <= {entry.name for entry in chosen_peers((), ["none"], gpu=True)}
    assert not on_gpu & {entry.name for entry in chosen_peers((), ["none"], gpu=False)}
    assert [entry.name for entry in chosen_peers(("cuda-tensorrt",), ["none"], gpu=False)] == ["cuda-tensorrt"]


def test_an_unknown_peer_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'tflite'; choose among plain-export"):
        chosen_peers(("tflite",), ["none"])


def test_a_named_gpu_peer_without_a_gpu_is_missing(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacecompile.benchmarks.peers.table.has_gpu", lambda: False)
    opened, missing = open_peers(
        tiny_checkpoint, TINY_SPEC, threads=1, entries=chosen_peers(("cuda-eager-fp16",), ["none"])
    )
    assert opened == []
    assert "no CUDA GPU" in missing["cuda-eager-fp16"]


def test_without_a_c_compiler_torch_compile_is_missing_with_the_command(
    loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_peers.shutil, "which", lambda _: None)
    with pytest.raises(MissingPartError, match=r"apt-get install g\+\+"):
        CompiledPeer(loaded, threads=1)


def test_a_network_that_torch_compile_refuses_is_missing_with_its_reason(
    loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        def run(_: torch.Tensor) -> None:
            raise RuntimeError("backend failed\nmore")

        return run

    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(MissingPartError, match=r"fails here \(backend failed\)"):
        CompiledPeer(loaded, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("factory", [cuda_onnxruntime, cuda_tensorrt])
def test_onnx_runtime_without_the_provider_says_what_adds_it(
    loaded: LoadedCheckpoint, factory: Callable[..., PeerContestant]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(MissingPartError, match="pip install onnxruntime-gpu"):
        factory(loaded, threads=1)


BEYOND_SMP = {
    "box head": {"box_head": BoxHead(channels=8), "box": BoxRule(residual=True)},
    "shuffle head": {"part_head": "shuffle"},
}


@pytest.mark.parametrize("changes", BEYOND_SMP.values(), ids=BEYOND_SMP)
def test_a_network_that_smp_does_not_have_still_has_its_peers(
    loaded: LoadedCheckpoint, tmp_path: Path, changes: dict[str, object]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MultiTaskNetwork(msgspec.structs.replace(loaded.spec, **changes)).eval()
    weights = loaded.network.state_dict()
    kept = {key: weights[key] for key in weights if "part_head" not in changes or "segmentation_head" not in key}
    network.load_state_dict(kept, strict=False)
    save_checkpoint(tmp_path / "net.pt", network, training={})
    entries = [entry for entry in PEERS if entry.name in ("plain-export", "pytorch-eager")]
    opened, missing = open_peers(tmp_path / "net.pt", network.spec, threads=1, entries=entries)
    assert missing == {}
    reference = TorchReference(dataclasses.replace(loaded, network=network, spec=network.spec), "none")
    expected = [reference(frame_HWC) for frame_HWC in FRAMES_HWC]
    for peer in opened:
        agreement = compare(given_by(peer), expected, tolerance_for(network.spec))
        assert agreement.class_agreement == 1
        assert agreement.parts_iou_mean > 0.5  # untrained shuffle logits lie close to the threshold
        peer.close()


@pytest.mark.parametrize("able", ["plain-export", "pytorch-eager"])
def test_a_peer_that_can_not_be_opened_is_missing_with_its_reason_and_the_others_run(
    tiny_checkpoint: Path, able: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unexpected key\nand more")

    before = torch.get_num_threads()
    # The plain export has a name of its own for it: only the other peer fails by that.
    fails = {"plain-export": "torch_peers.plain_smp_network", "pytorch-eager": "plain_exports.export_plain"}[able]
    monkeypatch.setattr(f"spacecompile.benchmarks.peers.{fails}", refuse)
    entries = [entry for entry in PEERS if entry.name in ("plain-export", "pytorch-eager")]
    opened, missing = open_peers(tiny_checkpoint, TINY_SPEC, threads=before + 1, entries=entries)
    assert [peer.name for peer in opened] == [able]
    assert list(missing.values()) == ["it fails here: RuntimeError: unexpected key"]
    # A peer that is not there can't be closed, so it must have left torch's threads alone.
    assert torch.get_num_threads() == (before + 1 if able == "pytorch-eager" else before)
    opened[0].close()
    assert torch.get_num_threads() == before


def test_peers_do_the_bundle_s_task_and_not_the_checkpoint_s(tiny_checkpoint: Path) -> None:
    spec = msgspec.structs.replace(TINY_SPEC, input_size_px=(96, 96), frame_size_px=(192, 192), mean=(0.4, 0.4, 0.4))
    opened, missing = open_peers(tiny_checkpoint, spec, threads=1, entries=PEERS[:1])
    assert missing == {}
    frame_HWC = np.zeros((192, 192, 3), np.uint8)
    frame_HWC[60:120, 60:120] = (255, 60, 90)
    reference = TorchReference(load_source(tiny_checkpoint, spec), "none")
    given = [answered_from_peer(opened[0].run(frame_HWC))]
    assert compare(given, [reference(frame_HWC)]).class_probs_max <= 0.1
    own = TorchReference(load_checkpoint(tiny_checkpoint), "none")
    assert own.cost().macs_fvcore < reference.cost().macs_fvcore


@pytest.mark.slow
def test_the_compiled_network_gives_eager_s_answers(quick_checkpoint: Path) -> None:
    loaded = load_checkpoint(quick_checkpoint)
    eager, compiled = EagerPeer(loaded, threads=1), CompiledPeer(loaded, threads=1)
    agreement = compare(given_by(compiled), given_by(eager))
    assert agreement.class_probs_max <= 1e-4
    assert agreement.parts_iou_min >= 0.999
    compiled.close()
    eager.close()


@pytest.mark.gpu
@pytest.mark.parametrize("entry", [entry for entry in PEERS if entry.cuda], ids=lambda entry: entry.name)
def test_a_peer_on_the_gpu_gives_the_answers_of_the_cpu(
    tiny_checkpoint: Path, peers: dict[str, PeerContestant], entry: PeerEntry
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    opened, missing = open_peers(tiny_checkpoint, TINY_SPEC, threads=1, entries=[entry])
    if missing:
        pytest.skip(missing[entry.name])
    around = "pytorch-eager" if isinstance(opened[0], CudaEagerPeer) or "compile" in entry.name else "plain-export"
    agreement = compare(given_by(opened[0]), given_by(peers[around]))
    assert agreement.class_agreement == 1
    assert agreement.parts_iou_mean >= 0.99
    (took_ms,) = opened[0].scopes_ms().values()
    assert took_ms > 0
    opened[0].close()
