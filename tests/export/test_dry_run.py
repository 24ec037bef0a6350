from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from spacecompile.export.build import run_build
from spacecompile.export.dry_run import dry_run
from spacecompile.export.parity.frame_set import adversarial_frames
from spacecompile.export.plan import BuildOptions, plan_build
from spacecompile.runtime.bundle import MANIFEST_NAME, open_bundle


@pytest.mark.parametrize("rewrite", [True, False], ids=["rewritten", "as it is"])
def test_a_build_does_and_writes_what_its_dry_run_said(quick_checkpoint: Path, tmp_path: Path, rewrite: bool) -> None:
    options = BuildOptions(rewrite=rewrite, parity_frames=0)
    plan = plan_build(quick_checkpoint, output=tmp_path / "net.spacepkg", tta=("none", "d4"), options=options)
    said = dry_run(plan)
    assert not list(tmp_path.iterdir())
    report = run_build(plan)
    assert [step.name for step in said.steps] == [step.name for step in report.steps]
    assert {file.path for file in said.files} == {*open_bundle(plan.output).manifest.files, MANIFEST_NAME}
    assert [variant.name for variant in said.variants] == [variant.name for variant in report.variants]
    assert (said.output, said.spec) == (report.path, plan.spec)


def test_the_frames_that_would_be_judged_are_counted(quick_checkpoint: Path, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (128, 128)).save(tmp_path / f"{name}.png")

    def frames_of(**options: int) -> str:
        plan = plan_build(quick_checkpoint, output=tmp_path / "out", data=tmp_path, options=BuildOptions(**options))
        return next(step.does for step in dry_run(plan).steps if step.name == "frames")

    num_adversarial = len(adversarial_frames((64, 64)))
    assert frames_of() == f"3 real ones of {tmp_path}, and {num_adversarial} adversarial ones"
    assert frames_of(parity_frames=2).startswith("2 real ones")


def test_variants_that_share_a_file_list_it_once(quick_checkpoint: Path, tmp_path: Path) -> None:
    plan = plan_build(quick_checkpoint, output=tmp_path / "out", tta=("none", "d4", "d4-median"))
    paths = [file.path for file in dry_run(plan).files]
    assert len(paths) == len(set(paths))
    assert sum(path.endswith(".onnx") for path in paths) == 3


def test_the_files_of_every_precision_are_those_that_a_build_writes(
    precise_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plan = plan_build(tiny_checkpoint, output=tmp_path / "out", precision=("fp32", "fp16", "int8"))
    assert {file.path for file in dry_run(plan).files} == {*open_bundle(precise_bundle).manifest.files, MANIFEST_NAME}
    names = [step.name for step in dry_run(plan).steps]
    measuring = names.index("calibration frames")
    assert names[measuring : measuring + 4] == ["calibration frames", "measure fp16", "measure int8", "write fp32"]
