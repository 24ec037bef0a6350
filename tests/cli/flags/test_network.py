"""Foreign checkpoints on the command line: what flags and a spec file say, and what is assumed out loud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from spacecompile.cli.main import main
from spacecompile.runtime.bundle import open_bundle

SMALL = ["--imgsz", "64", "--frame", "128"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning checkpoint of a small smp network with three classes."""
    path = tmp_path_factory.mktemp("foreign") / "epoch=3.ckpt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = smp.Unet(
            encoder_name="tu-test_resnet",
            encoder_weights=None,
            encoder_depth=4,
            decoder_channels=(32, 16, 16, 8),
            classes=2,
            aux_params={"classes": 3},
        )
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": weights}, path)
    return path


def planned(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """What a dry run would build."""
    assert main(["build", *map(str, arguments), "--dry-run", "--json", "-"]) == 0
    facts: dict[str, Any] = json.loads(capfd.readouterr().out)["dry_run"]
    return facts


def test_a_foreign_checkpoint_becomes_a_bundle_and_what_was_assumed_is_said(
    foreign: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.spacepkg"
    flags = [*SMALL, "--mean", "0.5,0.5,0.5", "--tta", "none", "--parity-frames", "0"]
    assert main(["build", str(foreign), "-o", str(output), *flags]) == 0
    stderr = capfd.readouterr().err
    assert "Lightning checkpoint, prefix 'model.'; assumed: std 0.19,0.19,0.24 (--std); classes class-0," in stderr
    assert "mean 0" not in stderr
    manifest = open_bundle(output).manifest
    assert manifest.source_format == "Lightning checkpoint, prefix 'model.'"
    assert (manifest.spec.encoder, manifest.spec.mean) == ("tu-test_resnet", (0.5, 0.5, 0.5))
    assert len(manifest.spec.classes) == 3


def test_a_spec_file_gives_facts_and_flags_win_over_it(
    foreign: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.json"
    given = {
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
        "input_size_px": [96, 96],
        "classes": ["a", "b", "c"],
        "decoder_options": {"decoder_interpolation": "bilinear"},
        "box": {"threshold": 0.4, "margins_px": [1, 2, 3, 4]},
    }
    path.write_text(json.dumps(given))
    facts = planned(capfd, foreign, *SMALL, "--std", "0.5,0.5,0.5", "--spec", path)
    spec = facts["spec"]
    assert (spec["mean"], spec["std"], spec["input_size_px"]) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [64, 64])
    assert spec["classes"] == ["a", "b", "c"]
    assert spec["decoder_options"]["decoder_interpolation"] == "bilinear"
    assert given["box"].items() <= spec["box"].items()
    assert facts["format"] == "Lightning checkpoint, prefix 'model.'"
    assert facts["assumed"] == ["masks body and panel, a classifier on averaged features, no activations"]


def test_flags_name_the_network(foreign: Path, capfd: pytest.CaptureFixture[str]) -> None:
    named = ["--architecture", "Unet", "--encoder", "tu-test_resnet", "--encoder-depth", "4"]
    options = ["--decoder-options", '{"decoder_interpolation": "bilinear"}']
    spec = planned(capfd, foreign, *SMALL, *named, *options)["spec"]
    assert (spec["architecture"], spec["encoder"], spec["encoder_depth"]) == ("Unet", "tu-test_resnet", 4)
    assert spec["decoder_options"] == {"decoder_channels": [32, 16, 16, 8], "decoder_interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("flags", "content", "seen"),
    [
        pytest.param(["--encoder", "tu-no_such"], None, "smp has no encoder 'tu-no_such'", id="encoder"),
        pytest.param(["--architecture", "Net"], None, "--architecture is 'Net'; smp checkpoints of these", id="class"),
        pytest.param(["--decoder-options", "[1]"], None, "--decoder-options is no JSON object", id="no object"),
        pytest.param(["--decoder-options", "{"], None, "--decoder-options is no JSON object", id="no JSON"),
        pytest.param(["--classes", "a,b"], None, "classifier has 3 classes, but 2 names are given", id="classes"),
        pytest.param(["--spec", "{tmp}/none.json"], None, "can't read --spec", id="no file"),
        pytest.param(["--spec", "{tmp}/spec.json"], "{", "is no JSON object", id="spec without JSON"),
        pytest.param(["--spec", "{tmp}/spec.json"], '{"size": 1}', "has the field 'size', which no", id="field"),
        pytest.param(["--spec", "{tmp}/spec.json"], '{"mean": "red"}', "can't be used: Expected `array`", id="type"),
        pytest.param(["--spec", "{tmp}/spec.json"], '{"std": [0, 1, 1]}', "std above zero", id="value"),
        pytest.param(
            ["--spec", "{tmp}/spec.json"],
            '{"encoder_depth": 3}',
            "like none that smp or timm has at depth 3",
            id="depth",
        ),
    ],
)
def test_what_can_not_be_used_exits_with_2_and_one_sentence(
    foreign: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
    content: str | None,
    seen: str,
) -> None:
    if content is not None:
        (tmp_path / "spec.json").write_text(content)
    filled = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    assert main(["build", str(foreign), "-o", str(tmp_path / "net.spacepkg"), *SMALL, *filled]) == 2
    stderr = capfd.readouterr().err
    assert seen in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "net.spacepkg").exists()


def test_an_offset_that_only_a_rewritten_network_has_is_refused(
    foreign: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"part_logit_offset": 2}')
    assert main(["build", str(foreign), *SMALL, "--spec", str(path), "--dry-run"]) == 2
    assert "only a rewritten network has" in " ".join(capfd.readouterr().err.split())


def test_a_misspelt_decoder_option_is_refused_with_the_known_ones(
    foreign: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--decoder-options", '{"decoder_interpolatoin": "bilinear"}']
    assert main(["build", str(foreign), *SMALL, *options, "--dry-run"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "no option 'decoder_interpolatoin'" in said
    assert "decoder_interpolation" in said
