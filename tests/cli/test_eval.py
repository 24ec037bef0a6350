"""`spacecompile eval`: any variant and backend of a bundle, what is charged, what is broken down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spacecompile.cli.main import main
from spacecompile.contract import ModelSpec
from spacecompile.data.labels import SPARK_2022_CLASSES, LabelledFrame
from spacecompile.data.spark import write_mask, write_split_csv
from spacecompile.metrics import final_score
from spacecompile.network.checkpoint import save_checkpoint
from spacecompile.network.model import MultiTaskNetwork


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of 128x128 of two classes."""
    root, frames = tmp_path_factory.mktemp("eval"), []
    rng = np.random.default_rng(0)
    for index in range(4):
        class_name = ("Cheops", "Soho")[index % 2]
        image_path = root / "images" / class_name / "val" / f"{index}_img.png"
        mask_path = root / "mask" / class_name / "val" / f"{index}_layer.jpg"
        image_path.parent.mkdir(parents=True, exist_ok=True)
        parts_HW = np.zeros((128, 128), np.uint8)
        parts_HW[32:64, 16 * index : 16 * index + 40] = 1
        frame_HWC = rng.integers(0, 20, (128, 128, 3)).astype(np.uint8)
        frame_HWC[parts_HW == 1] = 180
        Image.fromarray(frame_HWC).save(image_path)
        write_mask(mask_path, parts_HW)
        box_xyxy = (16 * index, 32, 16 * index + 40, 64)
        frames.append(
            LabelledFrame(image_path=image_path, mask_path=mask_path, class_name=class_name, box_xyxy=box_xyxy)
        )
    write_split_csv(root, "val", frames)
    return root


@pytest.mark.parametrize(
    ("variant", "passes"), [pytest.param("fp32", 1, id="plain"), pytest.param("fp32-d4", 8, id="D4")]
)
@pytest.mark.parametrize("kind", ["checkpoint", "onnxruntime", "openvino"])
def test_every_source_scores_with_one_pass_charged_and_with_all(
    kind: str,
    variant: str,
    passes: int,
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    source = tiny_checkpoint if kind == "checkpoint" else tiny_bundle
    backend = [] if kind == "checkpoint" else ["--backend", kind]
    assert main(["eval", str(source), "--data", str(data), "--variant", variant, *backend, "--json", "-"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["variant"] == variant
    assert document["backend"].split()[0] == ("torch" if kind == "checkpoint" else kind)
    scores, charged = document["scores"], document["charged"]
    assert document["forward_passes"] == passes
    assert 1 - charged["s_flops"] == pytest.approx(passes * (1 - scores["s_flops"]))
    assert charged["s_params"] == scores["s_params"]
    assert charged["s_final"] == pytest.approx(
        final_score(s_acc=scores["s_acc"], s_flops=charged["s_flops"], s_params=charged["s_params"])
    )
    assert ("8 forward passes charged" in " ".join(captured.err.split())) == (passes == 8)


def test_scores_are_broken_down_by_class_and_part(
    tiny_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(tiny_bundle), "--data", str(data), "--json", "-"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert {name: row["frames"] for name, row in document["per_class"].items()} == {"Cheops": 2, "Soho": 2}
    for name in ("s_cls", "s_det", "s_seg"):
        mean = np.mean([row[name] for row in document["per_class"].values()])
        assert mean == pytest.approx(document["scores"][name])
    assert np.mean(list(document["per_part"].values())) == pytest.approx(document["scores"]["s_seg"])
    assert list(document["per_part"]) == ["body", "panel"]
    assert "Cheops" in captured.err
    assert "IoU per part: body" in " ".join(captured.err.split())


def test_frames_of_spark_2022_are_scored_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ModelSpec(
        architecture="Unet",
        encoder="tu-test_resnet",
        encoder_depth=4,
        decoder_options={"decoder_channels": [32, 16, 16, 8]},
        classes=SPARK_2022_CLASSES,
        input_size_px=(64, 64),
        frame_size_px=(64, 96),
    )
    save_checkpoint(tmp_path / "net.pt", MultiTaskNetwork(spec).eval(), training={})
    (tmp_path / "val").mkdir()
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "val" / "a.png")
    (tmp_path / "val.csv").write_text('filename,class,bbox\na.png,cheops,"[4, 8, 20, 30]"\n', encoding="utf-8")
    assert main(["eval", str(tmp_path / "net.pt"), "--data", str(tmp_path), "--threads", "1", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["scores"]["s_seg"] == 0
    assert "no labelled parts" in " ".join(captured.err.split())
