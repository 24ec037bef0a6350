"""What a user may import, name by name, and that every function of it works; everything else is internal."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import spacecompile as sc
from spacecompile.benchmarks.latency.interleaved import LatencySettings
from spacecompile.benchmarks.settings import ContestSettings
from spacecompile.data import RenderSettings, check_split, read_split, render_dataset, usable_split
from spacecompile.errors import IntegrityError
from spacecompile.train import CalibrationJob, Recipe, TrainJob, recipe_named, train

PUBLIC = {
    "spacecompile": """
        Answer BenchResult BenchRun BenchSettings BoxRule BuildOptions BuildReport Bundle Choice Comparison Evaluation
        GuardRule ModelSpec PredictOptions Prediction Recertificate SelftestResult Session VerifyReport __version__
        bench build calibrate compare errors evaluate load open_bundle predict read_result recertify selftest verify
    """,
    "spacecompile.runtime": """
        Answer Bundle Choice DeviceAnswer DeviceFrame GuardRule Session Ticket load open_bundle
    """,
    "spacecompile.train": """
        CalibrationJob CalibrationReport Callbacks NamedRecipe Recipe TrainJob TrainReport calibrate
        recipe_named train
    """,
    "spacecompile.data": """
        LabelledFrame RenderSettings Split SplitFacts check_split read_split render_dataset usable_split
    """,
    "spacecompile.export": "Pass",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these_and_each_says_what_it_is(package: str) -> None:
    module = import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        public = getattr(module, name)
        if name != "__version__":
            assert pydoc.getdoc(public), name
        if inspect.isfunction(public):
            assert "Raises:" in (public.__doc__ or "") or not inspect.signature(public).parameters, name


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_that_is_not_public_is_an_attribute_error(package: str) -> None:
    assert not hasattr(import_module(package), "no_such_name")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled frames of the tiny bundle's size, rendered by the public function."""
    root = tmp_path_factory.mktemp("frames")
    for split in ("train", "val"):
        render_dataset(root, RenderSettings(num_frames=10, seed=3, split=split, frame_size_px=128))
    return root


def test_a_bundle_is_opened_verified_and_answers(tiny_bundle: Path, toy_frames: list[NDArray[np.uint8]]) -> None:
    report = sc.verify(tiny_bundle)
    assert report.selftest is not None
    assert sc.selftest(report.bundle).deviations == report.selftest.deviations
    assert sc.verify(tiny_bundle, frames=False).selftest is None
    with sc.load(report.bundle, variant="fp32") as session:
        answer = session(toy_frames[0])
    assert isinstance(answer, sc.Answer)
    assert answer.class_name in session.classes


def test_a_damaged_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    damaged = shutil.copytree(tiny_bundle, tmp_path / "damaged.spacepkg")
    (damaged / "selftest" / "expected.json").write_bytes(b"{}")
    with pytest.raises(sc.errors.IntegrityError):
        sc.verify(damaged)
    assert sc.errors.IntegrityError is IntegrityError


def test_images_are_answered_into_a_folder(
    tiny_bundle: Path, toy_frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    Image.fromarray(toy_frames[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with sc.load(tiny_bundle, variant="fp32") as session:
        found = sc.predict(session, [str(tmp_path)], output=tmp_path / "out", options=sc.PredictOptions(masks=False))
    assert [answer["image"] for answer in found.answers] == ["a.png"]
    assert [left_out["image"] for left_out in found.failed] == ["b.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overlay.jpg", "answers.json"]


def test_a_checkpoint_and_its_bundle_are_scored_alike_and_judged_again(
    tiny_checkpoint: Path, tiny_bundle: Path, frames: Path
) -> None:
    of_checkpoint, of_bundle = (sc.evaluate(source, frames, limit=4) for source in (tiny_checkpoint, tiny_bundle))
    assert (of_checkpoint.kind, of_bundle.kind) == ("checkpoint", "bundle")
    assert of_checkpoint.scores.s_cls == of_bundle.scores.s_cls
    certificate = sc.recertify(sc.open_bundle(tiny_bundle), tiny_checkpoint)
    assert all(verdict.passed for verdict in certificate.verdicts)


def test_a_bundle_is_measured_and_compared_with_itself(tiny_bundle: Path, tmp_path: Path) -> None:
    quick = LatencySettings(rounds_min=1, duration_s=0, warmup_rounds=0, warmup_s=0, settle_max_ms=0)
    contest = ContestSettings(latency=quick, from_file=False, energy=False)
    run = sc.bench(tiny_bundle, settings=sc.BenchSettings(contest=contest, variants=("fp32",), peers=False))
    assert isinstance(run, sc.BenchRun)
    comparison = sc.compare(run.result, run.result)
    assert isinstance(comparison, sc.Comparison)
    assert {change.verdict for change in comparison.changes if change.group == "latency"} <= {"same", "not judged"}


def test_a_network_is_trained_calibrated_and_built(frames: Path, tmp_path: Path) -> None:
    assert recipe_named("post").recipe.epochs
    assert len(read_split(frames, "train")) == 10
    split = usable_split(frames, "val")
    assert check_split(split, frames=split.frames).frames == 10
    changes = {"encoder": "tu-test_resnet", "encoder_depth": 4, "input_size_px": (64, 64), "frame_size_px": (128, 128)}
    job = TrainJob(
        data=frames,
        output=tmp_path / "run",
        recipe=Recipe(epochs=1, batch_size=5, zoom=0.0),
        spec_changes=changes,
        device="cpu",
        cache="off",
    )
    trained = train(job)
    calibrated = tmp_path / "calibrated.pt"
    report = sc.calibrate(CalibrationJob(checkpoint=trained.checkpoint, data=frames, output=calibrated, device="cpu"))
    assert any(estimate.chosen for estimate in report.estimates)
    built = sc.build(
        calibrated,
        output=tmp_path / "net.spacepkg",
        tta=("none",),
        options=sc.BuildOptions(parity_frames=2, rewrite=False),
    )
    assert isinstance(built, sc.BuildReport)
    assert sc.open_bundle(built.path).manifest.name


def test_the_page_of_the_documents_lists_the_public_names() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "api.md"
    if not page.exists():
        pytest.skip("the documents are read in a clone")
    listed = {
        line.rpartition(".")[2] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(":::")
    }
    assert listed == {name for names in PUBLIC.values() for name in names.split()} - {"__version__"}


def test_a_missing_package_is_told_with_what_adds_it() -> None:
    code = "import sys; sys.modules['psutil'] = None; import spacecompile; spacecompile.bench"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingPartError: spacecompile.bench needs the package psutil" in done.stderr
    assert "pip install 'spacecompile[bench]'" in done.stderr
