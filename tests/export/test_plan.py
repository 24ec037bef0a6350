from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spacecompile.box_rule import BoxRule
from spacecompile.contract import TOLERANCES, ModelSpec
from spacecompile.errors import CheckpointError, DataError, MissingPartError, OutputError, UsageError
from spacecompile.export.plan import BuildOptions, changed_spec, plan_build
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.runtime.backends.registry import BACKENDS

SPEC = ModelSpec(box=BoxRule(margins_px=(8.0, 4.0, -2.0, 0.0)))


@pytest.mark.parametrize(
    ("tta", "names"),
    [
        pytest.param(("none",), ["fp32"], id="one"),
        pytest.param(("none", "d4"), ["fp32", "fp32-d4"], id="the default"),
        pytest.param(("d4-median", "none", "none"), ["fp32-d4-median", "fp32"], id="in the given order and once"),
    ],
)
def test_variants_are_named_after_precision_and_augmentation(
    quick_checkpoint: Path, tmp_path: Path, tta: tuple[str, ...], names: list[str]
) -> None:
    plan = plan_build(quick_checkpoint, output=tmp_path / "net.spacepkg", tta=tta)
    assert [variant.name for variant in plan.variants] == names
    assert plan.variants[0].path == f"variants/{names[0]}/model.onnx"
    assert plan.name == "quick"
    assert not (tmp_path / "net.spacepkg").exists()


def test_bf16_is_the_fp32_file_under_its_own_profile(quick_checkpoint: Path, tmp_path: Path) -> None:
    plan = plan_build(quick_checkpoint, output=tmp_path / "net.spacepkg", precision=("fp32", "bf16", "int8"))
    assert [(variant.name, variant.path) for variant in plan.variants] == [
        ("fp32", "variants/fp32/model.onnx"),
        ("fp32-d4", "variants/fp32-d4/model.onnx"),
        ("bf16", "variants/fp32/model.onnx"),
        ("bf16-d4", "variants/fp32-d4/model.onnx"),
        ("int8", "variants/int8/model.onnx"),
        ("int8-d4", "variants/int8-d4/model.onnx"),
    ]
    assert all(variant.tolerance == TOLERANCES[variant.precision] for variant in plan.variants)


def test_a_precision_that_no_installed_backend_computes_in_is_refused_before_any_work(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tuple(
        dataclasses.replace(entry, missing=lambda: "not installed") if entry.name == "openvino" else entry
        for entry in BACKENDS
    )
    monkeypatch.setattr("spacecompile.export.parity.certificate.BACKENDS", lacking)
    with pytest.raises(MissingPartError, match=r"variant bf16 can't be certified: .* pip install 'spacecompile"):
        plan_build(quick_checkpoint, output=tmp_path / "net.spacepkg", precision=("bf16",))


def test_without_an_output_the_bundle_is_named_after_the_checkpoint(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_build(quick_checkpoint)
    assert plan.output == Path("quick.spacepkg")
    assert plan.name == "quick"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            {"precision": ("fp32", "fp8")},
            UsageError,
            "--precision is 'fp8'; this version builds fp32, fp16, bf16, int8",
            id="precision",
        ),
        pytest.param({"precision": ()}, UsageError, "--precision is empty", id="no precision"),
        pytest.param(
            {"tta": ("none", "d8")}, UsageError, "--tta is 'd8'; this version builds none, d4, d4-median", id="tta"
        ),
        pytest.param({"data": "nowhere"}, DataError, "nowhere is not a folder", id="data"),
        pytest.param({"output": "."}, OutputError, r"\. exists", id="output"),
        pytest.param(
            {"options": BuildOptions(spec_changes={"classes": ("a", "b")})},
            UsageError,
            "names 2 classes, but the checkpoint's classifier has 3. Name them all, in its order: Red, Green, Blue",
            id="number of classes",
        ),
        pytest.param(
            {"options": BuildOptions(spec_changes={"classes": ("a", "b", "a")})},
            UsageError,
            "at least two different names",
            id="repeated class",
        ),
        pytest.param(
            {"options": BuildOptions(spec_changes={"input_size_px": (100, 100)})},
            UsageError,
            "multiples of 32",
            id="input size",
        ),
        pytest.param(
            {"options": BuildOptions(spec_changes={"input_size_px": (64, 96)})},
            UsageError,
            "variant d4 .* not square",
            id="d4 of an input that is not square",
        ),
        pytest.param(
            {"options": BuildOptions(parity_frames=-1)}, UsageError, "there are -1 parity frames", id="parity frames"
        ),
    ],
)
def test_arguments_that_can_not_be_used_are_refused_before_any_work(
    quick_checkpoint: Path, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_build(quick_checkpoint, **({"output": tmp_path / "net.spacepkg"} | arguments))
    assert list(tmp_path.iterdir()) == []


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda content: content[:9000], "is truncated", id="truncated"),
        pytest.param(lambda _: b"", "is truncated", id="empty"),
        pytest.param(lambda _: b"GIF89a" * 50, "could run code|is truncated or not", id="a picture"),
        pytest.param(lambda _: saved([1, 2]), "holds a list", id="a list"),
        pytest.param(lambda _: saved({"a": Path("x")}), "could run code", id="a pickled object"),
        pytest.param(lambda _: saved({"a": torch.ones(1)}), "is not a spacecompile checkpoint", id="foreign"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    quick_checkpoint: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(damage(quick_checkpoint.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        plan_build(path, output=tmp_path / "net.spacepkg")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        plan_build(tmp_path / "none.pt", output=tmp_path / "net.spacepkg")


def test_weights_that_are_not_numbers_are_refused(quick_checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(quick_checkpoint)
    next(loaded.network.parameters()).data[0] = float("nan")
    save_checkpoint(tmp_path / "bad.pt", loaded.network, training={})
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        plan_build(tmp_path / "bad.pt", output=tmp_path / "net.spacepkg")


def test_changes_of_the_spec_reach_the_network(quick_checkpoint: Path, tmp_path: Path) -> None:
    changes = {"input_size_px": (96, 96), "classes": ("a", "b", "c"), "mean": (0.0, 0.1, 0.2)}
    options = BuildOptions(spec_changes=changes)
    plan = plan_build(quick_checkpoint, output=tmp_path / "net.spacepkg", options=options)
    assert plan.spec.input_size_px == (96, 96)
    assert plan.spec.classes == ("a", "b", "c")
    assert plan.spec.mean == (0.0, 0.1, 0.2)
    assert plan.spec.frame_size_px == (128, 128)
    assert plan.checkpoint.network.spec == plan.spec


def test_box_margins_follow_the_size_of_the_frame() -> None:
    changed = changed_spec(SPEC, {"frame_size_px": (512, 2048)})
    assert changed.box.margins_px == (16.0, 2.0, -4.0, 0.0)
    assert changed_spec(SPEC, {"mean": (0.0, 0.0, 0.0)}).box == SPEC.box
