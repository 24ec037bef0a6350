from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spacecompile as sc
from spacecompile.contract import ModelSpec
from spacecompile.errors import AnswerError, FrameError, IntegrityError, UsageError
from spacecompile.runtime.backend import GraphSignature, RawAnswer, SynchronousBackend
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.choice import Choice
from spacecompile.runtime.guard import GuardRule
from spacecompile.runtime.session import Session, load
from spacecompile.runtime.threads import usable_cores

GraphMaker = Callable[..., bytes]
BundleMaker = Callable[..., Path]
Frame = NDArray[np.uint8]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: BundleMaker, make_graph: GraphMaker) -> Path:
    """Four variants whose boxes are shifted by 0, 1, 2 and 3 pixels, so that each is recognised by its answer."""
    keys = [("int8", "none"), ("fp16", "none"), ("fp32", "none"), ("fp32", "d4")]
    graphs = {key: make_graph(offset=float(shift)) for shift, key in enumerate(keys)}
    return make_bundle(tmp_path_factory.mktemp("session") / "four.spacepkg", graphs)


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return load(bundle, variant="int8", threads=1)


def test_the_one_line_of_the_readme_works(color_bundle: Path, craft_frame: Frame) -> None:
    answer = sc.load(color_bundle)(craft_frame)
    assert answer.class_name == "Red"
    assert answer.box_xyxy.tolist() == [30, 20, 90, 40]
    assert answer.body_HW.sum() == answer.panel_HW.sum() == 400


def test_array_path_and_image_give_the_same_answer(session: Session, craft_frame: Frame, tmp_path: Path) -> None:
    Image.fromarray(craft_frame).save(tmp_path / "frame.png")
    answers = session.batch([craft_frame, tmp_path / "frame.png", Image.fromarray(craft_frame)])
    for answer in answers[1:]:
        assert answer.to_dict(masks=True) == answers[0].to_dict(masks=True)


@pytest.mark.parametrize(
    ("wish", "variant"),
    [
        ({}, "fp32"),
        ({"tta": "d4"}, "fp32-d4"),
        ({"precision": "fp16"}, "fp16"),
        ({"variant": "int8"}, "int8"),
        ({"variant": "fp32-d4"}, "fp32-d4"),
        ({"variant": "fp32-d4", "tta": "d4", "precision": "fp32"}, "fp32-d4"),
    ],
    ids=str,
)
def test_the_variant_that_was_asked_for_runs(
    bundle: Path, craft_frame: Frame, wish: dict[str, Any], variant: str
) -> None:
    with load(bundle, **wish) as session:
        assert session.choice.variant == variant
        shift = ["int8", "fp16", "fp32", "fp32-d4"].index(variant)
        assert session(craft_frame).box_xyxy[0] == 30 + shift


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"tta": "d4-median"}, "no variant with tta d4-median; it has int8, fp16, fp32, fp32-d4"),
        ({"precision": "int8", "tta": "d4"}, "no variant with tta d4 and precision int8"),
        ({"variant": "fp64"}, "no variant 'fp64'"),
        ({"variant": "fp32", "tta": "d4"}, "has precision fp32 and tta none, but"),
        ({"variant": "fp32", "precision": "int8"}, "but precision int8"),
        ({"backend": "caffe"}, "choose one of auto, onnxruntime"),
        ({"variant": "fp32", "precision": "auto"}, "but precision auto"),
        ({"precision": "auto", "tta": "d4-median"}, "no variant with tta d4-median"),
        ({"threads": 0}, "at least one"),
        ({"color": "hsv"}, "choose one of rgb, bgr, gray"),
    ],
    ids=str,
)
def test_a_wish_that_can_not_be_met_is_refused(bundle: Path, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(bundle, **wish)


def test_the_choice_is_recorded_with_its_reasons(bundle: Path) -> None:
    with load(bundle, spinning=False) as session:
        choice = session.choice
    assert (choice.backend, choice.variant, choice.spinning, choice.color) == ("onnxruntime", "fp32", False, "rgb")
    assert choice.threads == usable_cores()
    assert choice.manifest_sha256 == open_bundle(bundle).manifest_sha256
    assert choice.variant_reason == "tta none, the most exact precision of the bundle"
    assert choice.backend_reason.startswith("auto: ")
    assert choice.threads_reason.startswith("physical cores")
    with load(bundle, threads=1, precision="fp16") as session:
        assert (session.choice.threads, session.choice.threads_reason) == (1, "asked for")
        assert session.choice.variant_reason == "tta none, precision asked for"


@pytest.mark.parametrize(
    ("features", "certified", "variant", "reason"),
    [
        (
            {"avx512f"},
            ("onnxruntime",),
            "fp32",
            "the fastest precision on a CPU like this, by measured time per frame: ",
        ),
        (
            *({"avx512f", "amx_int8"}, ("onnxruntime", "openvino"), "int8"),
            "the fastest precision on a CPU like this, by measured time per frame: fp32 0.83, fp16 0.79, int8 0.57",
        ),
        (set(), (), "fp32", "the most exact precision of the bundle: none was measured on a CPU like this"),
    ],
    ids=["ONNX Runtime alone", "int8 in OpenVINO", "nothing is known"],
)
def test_precision_auto_takes_the_fastest_that_was_measured(
    tmp_path: Path,
    make_bundle: BundleMaker,
    make_graph: GraphMaker,
    monkeypatch: pytest.MonkeyPatch,
    features: set[str],
    certified: tuple[str, ...],
    variant: str,
    reason: str,
) -> None:
    if "openvino" in certified:
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    from spacecompile.runtime.backends import registry

    monkeypatch.setattr(registry, "cpu_features", lambda: frozenset(features))
    graphs = {(precision, "none"): make_graph() for precision in ("int8", "fp16", "fp32")}
    path = make_bundle(tmp_path / "three.spacepkg", graphs, certified=certified)
    with load(path, precision="auto", backend="auto" if certified else "onnxruntime") as session:
        assert session.choice.variant == variant
        assert session.choice.variant_reason.startswith(f"tta none, {reason}")
        assert session.choice.backend == (certified[-1] if certified else "onnxruntime")


def test_bgr_frames_are_swapped_when_asked_for(bundle: Path, craft_frame: Frame) -> None:
    with load(bundle, color="bgr") as swapped, load(bundle) as plain:
        answer = swapped(np.ascontiguousarray(craft_frame[:, :, ::-1]))
        np.testing.assert_array_equal(answer.parts_HW, plain(craft_frame).parts_HW)


def test_only_the_chosen_graph_is_hashed_at_load(bundle: Path, tmp_path: Path, craft_frame: Frame) -> None:
    import shutil

    copy = shutil.copytree(bundle, tmp_path / "copy")
    path = copy / "variants/fp16/model.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    with load(copy) as session:
        session(craft_frame)
    with pytest.raises(IntegrityError, match="SHA-256"):
        load(copy, precision="fp16")


def test_a_tampered_graph_never_reaches_the_parser(color_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spacecompile.runtime.backends import onnxruntime_

    parsed: list[bytes] = []
    monkeypatch.setattr(onnxruntime_.OnnxRuntimeBackend, "__init__", lambda _, content, **__: parsed.append(content))
    path = color_bundle / "variants/fp32/model.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        load(color_bundle)
    assert parsed == []


@pytest.mark.parametrize(
    "mismatch", [{"frame_size_px": (96, 160)}, {"classes": ("a", "b", "c", "d")}], ids=["frame size", "classes"]
)
def test_a_graph_that_contradicts_the_manifest_is_refused(
    tmp_path: Path, make_bundle: BundleMaker, make_graph: GraphMaker, mismatch: dict[str, Any]
) -> None:
    path = make_bundle(tmp_path / "odd.spacepkg", {("fp32", "none"): make_graph()}, **mismatch)
    with pytest.raises(IntegrityError, match="the manifest says"):
        load(path)


def test_an_open_bundle_loads_too(bundle: Path) -> None:
    with load(open_bundle(bundle)) as session:
        assert session.choice.bundle == "color"


def test_a_batch_gives_what_single_calls_give(session: Session, craft_frame: Frame) -> None:
    batch_NHWC = np.stack([craft_frame, craft_frame[::-1], np.zeros_like(craft_frame)])
    answers = session.batch(batch_NHWC)
    assert len(answers) == 3
    for answer, frame_HWC in zip(answers, batch_NHWC, strict=True):
        assert answer.to_dict(masks=True) == session(frame_HWC).to_dict(masks=True)


def test_an_empty_batch_gives_no_answer(session: Session) -> None:
    assert session.batch([]) == []


def test_a_stream_is_lazy_and_goes_on_behind_a_bad_frame(session: Session, craft_frame: Frame) -> None:
    taken = []

    def camera() -> Any:
        for frame_HWC in (craft_frame, craft_frame[:10], craft_frame):
            taken.append(1)
            yield frame_HWC

    answers = session.stream(camera())
    assert taken == []
    next(answers)
    with pytest.raises(FrameError):
        next(answers)
    assert next(answers).class_name == "Red"
    assert len(taken) == 3


def test_answers_stay_when_the_session_goes_on_and_closes(bundle: Path, craft_frame: Frame) -> None:
    with load(bundle) as session:
        answer = session(craft_frame)
        before = answer.to_dict(masks=True)
        session(np.zeros_like(craft_frame))
    assert answer.to_dict(masks=True) == before


def test_warming_up_changes_no_answer(bundle: Path, craft_frame: Frame) -> None:
    with load(bundle) as cold, load(bundle) as warm:
        warm.warm_up(runs=3)
        assert warm(craft_frame).to_dict(masks=True) == cold(craft_frame).to_dict(masks=True)


@pytest.mark.parametrize(
    "use", [lambda s: s(np.zeros((96, 128, 3), np.uint8)), lambda s: s.warm_up()], ids=["call", "warm-up"]
)
def test_a_closed_session_says_so(bundle: Path, use: Callable[[Session], object]) -> None:
    with load(bundle) as session:
        pass
    session.close()
    with pytest.raises(UsageError, match=r"closed\. Load the bundle again"):
        use(session)


def test_a_bad_frame_leaves_the_session_usable(bundle: Path, craft_frame: Frame) -> None:
    with load(bundle) as session:
        with pytest.raises(FrameError):
            session(craft_frame.astype(np.float32))
        assert session(craft_frame).class_name == "Red"


def test_nan_is_never_delivered(
    tmp_path: Path, make_bundle: BundleMaker, make_graph: GraphMaker, craft_frame: Frame
) -> None:
    path = make_bundle(tmp_path / "nan.spacepkg", {("fp32", "none"): make_graph(offset=float("nan"))})
    with load(path) as session, pytest.raises(AnswerError, match="nan"):
        session(craft_frame)


class SlowBackend(SynchronousBackend):
    """An engine in the middle of a frame for as long as a test wants."""

    name = "slow"
    version = "1"
    signature = GraphSignature(frame_size_px=(96, 128), num_classes=10)

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def run(self, frame_HWC: Frame) -> RawAnswer:
        self.entered.set()
        assert self.leave.wait(timeout=30)
        probs_L = np.full(10, 0.1, np.float32)
        zeros = np.zeros(6, np.float32)
        return RawAnswer(class_probs_L=probs_L, parts_HW=frame_HWC[..., 0], box_xyxy=zeros[:4], health=zeros)

    def close(self) -> None:
        pass


def test_a_second_thread_is_refused_while_a_frame_is_answered(craft_frame: Frame) -> None:
    backend = SlowBackend()
    choice = Choice(
        bundle="", manifest_sha256="", variant="", variant_reason="", backend="slow", backend_version="",
        backend_reason="", threads=1, threads_reason="", spinning=False, color="rgb",
    )  # fmt: skip
    spec = ModelSpec(frame_size_px=(96, 128))
    session = Session(backend, spec, choice=choice, rule=GuardRule())
    black_HWC = np.zeros_like(craft_frame)
    first = threading.Thread(target=session, args=(black_HWC,))
    first.start()
    assert backend.entered.wait(timeout=30)
    try:
        for use in (lambda: session(black_HWC), session.warm_up, session.close):
            with pytest.raises(UsageError, match=r"in another thread\. Load one session per thread"):
                use()
    finally:
        backend.leave.set()
        first.join()
    assert session(black_HWC).flags
    session.close()


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system does not fork")
def test_a_forked_session_is_refused_instead_of_waiting_for_ever(bundle: Path) -> None:
    code = f"""
import os, numpy as np
from spacecompile import load
from spacecompile.errors import UsageError
session = load({str(bundle)!r}, threads=2)
frame = np.zeros((96, 128, 3), np.uint8)
session(frame)
child = os.fork()
if child == 0:
    try:
        session(frame)
    except UsageError as error:
        os._exit(42 if "in another process" in str(error) else 1)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
session(frame)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_stays_steady_over_many_frames(tmp_path: Path, make_bundle: BundleMaker) -> None:
    size_px = (256, 256)
    frame_HWC = np.zeros((*size_px, 3), np.uint8)
    frame_HWC[40:90, 50:70] = 255

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with load(make_bundle(tmp_path / "b.spacepkg", frame_size_px=size_px), threads=1) as session:
        for _ in range(50):
            session(frame_HWC).to_dict(masks=True)
        before = resident_bytes()
        for _ in range(400):
            session(frame_HWC).to_dict(masks=True)
        # One mask or frame kept per call would be 26 MB or more.
        assert resident_bytes() - before < 8 << 20
