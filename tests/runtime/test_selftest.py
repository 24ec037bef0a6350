from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spacecompile.errors import IntegrityError, MissingPartError, ParityError, UsageError
from spacecompile.runtime.backends import registry
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.selftest import EXPECTED_PATH, Selftest, run_selftest, stored_answer

Outputs = dict[str, NDArray[Any]]
MakeTested = Callable[..., Path]


def outputs_for(frame_HWC: NDArray[np.uint8]) -> Outputs:
    """What the color graph answers to the craft frame, computed here."""
    means = frame_HWC.mean(axis=(0, 1)) * 0.1
    parts_HW = (frame_HWC[..., 0] > 127) * np.uint8(1) + (frame_HWC[..., 2] > 127) * np.uint8(2)
    probs_L = (np.exp(means) / np.exp(means).sum()).astype(np.float32)
    return {"class_probs_L": probs_L, "parts_HW": parts_HW, "box_xyxy": np.array([30, 20, 90, 40], np.float32)}


@pytest.fixture
def make_tested(
    tmp_path: Path, make_bundle: Callable[..., Path], make_graph: Callable[..., bytes], craft_frame: NDArray[np.uint8]
) -> MakeTested:
    """A bundle with two variants and a self-test whose expected outputs a test may bend."""

    def make(
        bend: Callable[[Outputs], None] = lambda _: None,
        *,
        certified: tuple[str, ...] = ("onnxruntime",),
        **files: bytes | None,
    ) -> Path:
        stream = io.BytesIO()
        Image.fromarray(craft_frame).save(stream, "PNG")
        outputs = outputs_for(craft_frame)
        good = stored_answer("selftest/craft.png", **outputs)
        bend(outputs)
        bent = stored_answer("selftest/craft.png", **outputs)
        expected = msgspec.json.encode(Selftest(answers={"none": (good,), "d4": (bent,)}))
        further = {"selftest/craft.png": stream.getvalue(), EXPECTED_PATH: expected} | files
        return make_bundle(
            tmp_path / "tested.spacepkg",
            {("fp32", "none"): make_graph(), ("fp32", "d4"): make_graph()},
            further_files={path: content for path, content in further.items() if content is not None},
            certified=certified,
        )

    return make


def test_an_honest_bundle_passes_and_says_by_how_much(make_tested: MakeTested) -> None:
    seen: list[tuple[str, int, int]] = []
    result = run_selftest(open_bundle(make_tested()), progress=lambda *step: seen.append(step))
    deviations = result.deviations
    assert result.not_tested == ()
    assert [deviation.variant for deviation in deviations] == ["fp32", "fp32-d4"]
    for deviation in deviations:
        assert deviation.backend.startswith("onnxruntime ")
        assert (deviation.frames, deviation.class_agreement, deviation.parts_iou_min) == (1, 1, 1)
        assert deviation.class_probs_max < 1e-6
        assert deviation.box_px_max == 0
    assert seen == [("self-test", 1, 2), ("self-test", 2, 2)]


def test_auto_tests_every_backend_that_is_certified_and_here(make_tested: MakeTested) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    seen: list[tuple[str, int, int]] = []
    result = run_selftest(
        open_bundle(make_tested(certified=("onnxruntime", "openvino", "caffe"))),
        progress=lambda *step: seen.append(step),
    )
    deviations = result.deviations
    assert [(item.variant, item.backend) for item in result.not_tested] == [("fp32", "caffe"), ("fp32-d4", "caffe")]
    tested = [(deviation.variant, deviation.backend.split()[0]) for deviation in deviations]
    assert tested == [(name, engine) for name in ("fp32", "fp32-d4") for engine in ("onnxruntime", "openvino")]
    assert seen[-1] == ("self-test", 4, 4)


def test_a_named_backend_tests_what_is_certified_on_it_and_names_the_rest(
    make_tested: MakeTested, edit_manifest: Callable[..., None]
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    path = make_tested()

    def certify(manifest: dict[str, Any]) -> None:
        manifest["variants"][1]["certified"] = ["openvino"]

    edit_manifest(path, certify)
    result = run_selftest(open_bundle(path), backend="openvino")
    assert [(it.variant, it.backend.split()[0]) for it in result.deviations] == [("fp32-d4", "openvino")]
    (item,) = result.not_tested
    assert (item.variant, item.backend) == ("fp32", "openvino")
    assert item.reason == "it is not certified on this backend, only on onnxruntime."
    assert result.files == (EXPECTED_PATH, "variants/fp32-d4/model.onnx", "selftest/craft.png")
    with pytest.raises(MissingPartError, match="none of the variants fp32 can be tested"):
        run_selftest(open_bundle(path), backend="openvino", variant="fp32")
    with pytest.raises(UsageError, match="choose one of auto"):
        run_selftest(open_bundle(path), backend="caffe")


def test_one_variant_is_tested_when_asked_for(make_tested: MakeTested) -> None:
    result = run_selftest(open_bundle(make_tested()), variant="fp32-d4")
    assert [it.variant for it in result.deviations] == ["fp32-d4"]


def test_the_mean_of_the_parts_and_the_worst_box_are_judged(
    make_tested: MakeTested, edit_manifest: Callable[..., None]
) -> None:
    def bend(outputs: Outputs) -> None:
        outputs["parts_HW"] = outputs["parts_HW"] * (np.arange(128) != 60)
        outputs["box_xyxy"] = outputs["box_xyxy"] + np.float32(3)

    path = make_tested(bend)
    loose = {"parts_iou_min": 0.9, "box_px_max": 4.0, "box_share_min": 0.5}

    def limit(**limits: float) -> None:
        edit_manifest(path, lambda manifest: manifest["variants"][1]["tolerance"].update(loose | limits))

    limit(parts_iou_mean_min=0.98, box_px_worst=3.0)
    bent = run_selftest(open_bundle(path)).deviations[1]
    assert (bent.box_px_max, bent.box_px_worst) == (3, 3)
    assert bent.parts_iou_min < bent.parts_iou_mean < 1
    limit(parts_iou_mean_min=0.99, box_px_worst=3.0)
    with pytest.raises(ParityError, match=r"mean parts IoU 0\.98"):
        run_selftest(open_bundle(path))
    limit(parts_iou_mean_min=0.98, box_px_worst=2.5)
    with pytest.raises(ParityError, match=r"worst box off by 3\.000 px, at most 2\.5"):
        run_selftest(open_bundle(path))


def test_a_bundle_that_nothing_here_is_certified_for_is_not_passed(
    make_tested: MakeTested,
) -> None:
    with pytest.raises(MissingPartError, match="none of the variants fp32, fp32-d4 can be tested: fp32 on caffe"):
        run_selftest(open_bundle(make_tested(certified=("caffe",))))


@pytest.mark.parametrize(
    ("certified", "end"),
    [
        pytest.param("openvino", r"for one with: pip install 'spacecompile\[openvino\]'$", id="known"),
        pytest.param("caffe", r"can't run it\.$", id="unknown"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_adds_it(
    make_tested: MakeTested, monkeypatch: pytest.MonkeyPatch, certified: str, end: str
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(MissingPartError, match=end):
        run_selftest(open_bundle(make_tested(certified=(certified,))))


def test_a_variant_that_this_machine_can_not_run_is_left_out_and_named(
    make_tested: MakeTested, edit_manifest: Callable[..., None]
) -> None:
    bundle = make_tested()

    def certify_elsewhere(manifest: dict[str, Any]) -> None:
        manifest["variants"][1]["certified"] = ["caffe"]

    edit_manifest(bundle, certify_elsewhere)
    seen: list[tuple[str, int, int]] = []
    result = run_selftest(open_bundle(bundle), progress=lambda *step: seen.append(step))
    assert [deviation.variant for deviation in result.deviations] == ["fp32"]
    assert [(item.variant, item.backend) for item in result.not_tested] == [("fp32-d4", "caffe")]
    assert seen == [("self-test", 1, 1)]


def test_bf16_on_a_cpu_without_it_is_not_tested(
    make_tested: MakeTested,
    edit_manifest: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    from spacecompile.runtime.backends import openvino_

    lesser_cpu = {"FULL_DEVICE_NAME": "a lesser CPU", "OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}
    monkeypatch.setattr(openvino_, "_cpu_facts", lambda _: lesser_cpu)
    path = make_tested()

    def make_bf16(manifest: dict[str, Any]) -> None:
        manifest["variants"][1] |= {"name": "bf16", "precision": "bf16", "certified": ["openvino"]}

    edit_manifest(path, make_bf16)
    bundle = open_bundle(path)
    result = run_selftest(bundle)
    assert [deviation.variant for deviation in result.deviations] == ["fp32"]
    assert [(item.variant, item.reason.split()[0]) for item in result.not_tested] == [("bf16", "OpenVINO")]
    with pytest.raises(MissingPartError, match="does not compute in bf16 on this CPU"):
        run_selftest(bundle, backend="openvino")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("class_probs_L", lambda probs_L: probs_L + np.float32(2e-4), "class probabilities off by 2"),
        ("class_probs_L", lambda probs_L: probs_L[::-1], "class agreement 0.000"),
        ("parts_HW", lambda parts_HW: parts_HW * (np.arange(128) != 60), "parts IoU 0.975"),
        ("box_xyxy", lambda box_xyxy: box_xyxy + np.float32(0.75), r"box off by 0.750 px, at most 0\.5"),
    ],
    ids=["probabilities", "class", "parts", "box"],
)
def test_a_variant_that_deviates_is_named_with_what_it_missed(
    make_tested: MakeTested, name: str, change: Callable[[NDArray[Any]], NDArray[Any]], message: str
) -> None:
    def bend(outputs: Outputs) -> None:
        outputs[name] = change(outputs[name])

    with pytest.raises(ParityError, match=f"variant fp32-d4 on onnxruntime .*{message}"):
        run_selftest(open_bundle(make_tested(bend)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lists no file 'selftest/expected.json'"),
        (b"{}", "is malformed"),
        (b'{"answers": {}}', "holds no answers for"),
        (b'{"answers": {"none": [], "d4": []}}', "holds no answers for some variants"),
    ],
    ids=["missing", "another schema", "a variant untested", "no frames"],
)
def test_a_bundle_without_a_self_test_is_refused(make_tested: MakeTested, content: bytes | None, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        run_selftest(open_bundle(make_tested(**{EXPECTED_PATH: content})))


def test_masks_of_another_size_are_refused(make_tested: MakeTested) -> None:
    def bend(outputs: Outputs) -> None:
        outputs["parts_HW"] = outputs["parts_HW"][:10]

    with pytest.raises(IntegrityError, match="Build the bundle again"):
        run_selftest(open_bundle(make_tested(bend)))


def test_a_tampered_frame_is_refused(make_tested: MakeTested) -> None:
    bundle = open_bundle(make_tested())
    (bundle.root / "selftest/craft.png").write_bytes(bytes(bundle.manifest.files["selftest/craft.png"].bytes))
    with pytest.raises(IntegrityError, match="SHA-256"):
        run_selftest(bundle)
