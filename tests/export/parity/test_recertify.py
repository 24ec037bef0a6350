from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from spacecompile.errors import CheckpointError, IntegrityError, MissingPartError, ParityError, UsageError
from spacecompile.export.build import build
from spacecompile.export.parity.recertify import RecertifyOptions, recertify, require_recertified
from spacecompile.export.plan import BuildOptions
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.runtime.bundle import Bundle, open_bundle

FEW = RecertifyOptions(parity_frames=1, threads=1)


@pytest.fixture(scope="module")
def built(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose spec differs from its checkpoint's in frame size and normalisation."""
    changes = {"frame_size_px": (96, 160), "mean": (0.1, 0.5, 0.9), "std": (0.5, 1.0, 2.0)}
    output = tmp_path_factory.mktemp("recertify") / "net.spacepkg"
    options = BuildOptions(spec_changes=changes, parity_frames=0)
    build(quick_checkpoint, output=output, tta=("none",), options=options)
    return output


@pytest.fixture
def edited(built: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """A copy of the bundle whose manifest was changed."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Bundle:
        copy = shutil.copytree(built, tmp_path / "copy.spacepkg")
        manifest = json.loads((copy / "manifest.json").read_bytes())
        change(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return open_bundle(copy)

    return edit


def test_a_bundle_gives_the_answers_of_its_checkpoint_with_the_spec_that_it_was_built_for(
    built: Path, quick_checkpoint: Path
) -> None:
    bundle = open_bundle(built)
    certificate = recertify(bundle, quick_checkpoint, options=FEW)
    judged, on_openvino = certificate.verdicts
    assert judged.passed and on_openvino.passed
    assert judged.backend.startswith("onnxruntime ") and on_openvino.backend.startswith("openvino ")
    assert judged.sha256 == bundle.manifest.files["variants/fp32/model.onnx"].sha256
    assert judged.tolerance == bundle.manifest.variants[0].tolerance
    assert judged.num_frames == {"adversarial": 8, "rendered": 1}
    assert certificate.reference == f"torch {torch.__version__}, eager, float32, before any rewrite"
    require_recertified(certificate)


def test_real_frames_are_judged_too(built: Path, quick_checkpoint: Path, tmp_path: Path) -> None:
    Image.effect_noise((160, 96), 80).convert("RGB").save(tmp_path / "real.png")
    options = RecertifyOptions(data=tmp_path, threads=1)
    judged, _ = recertify(open_bundle(built), quick_checkpoint, options=options).verdicts
    assert judged.num_frames == {"adversarial": 8, "real": 1}
    assert "real.png" in {frame.frame for frame in judged.frames}


def test_files_that_answer_unlike_the_checkpoint_fail(
    edited: Callable[..., Bundle], quick_checkpoint: Path, tmp_path: Path
) -> None:
    network = load_checkpoint(quick_checkpoint).network
    with torch.no_grad():
        next(module for module in network.classification_head.modules() if hasattr(module, "weight")).weight.mul_(1.5)
    other = tmp_path / "other.pt"
    save_checkpoint(other, network, training={})
    sha256 = hashlib.sha256(other.read_bytes()).hexdigest()
    bundle = edited(lambda manifest: manifest.update(source_sha256=sha256))
    certificate = recertify(bundle, other, options=FEW)
    assert not certificate.verdicts[0].passed
    with pytest.raises(ParityError, match=r"variant fp32 on onnxruntime .*class probability is off by"):
        require_recertified(certificate)


def test_another_checkpoint_is_refused_with_both_hashes(built: Path, tiny_checkpoint: Path) -> None:
    bundle = open_bundle(built)
    with pytest.raises(IntegrityError, match=bundle.manifest.source_sha256):
        recertify(bundle, tiny_checkpoint, options=FEW)


def test_a_missing_checkpoint_is_named(built: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt can't be read"):
        recertify(open_bundle(built), tmp_path / "gone.pt", options=FEW)


def test_a_manifest_with_another_number_of_classes_is_refused(
    edited: Callable[..., Bundle], quick_checkpoint: Path
) -> None:
    bundle = edited(lambda manifest: manifest["spec"].update(classes=["Red", "Green"]))
    with pytest.raises(IntegrityError, match="names 2 classes, its checkpoint has 3"):
        recertify(bundle, quick_checkpoint, options=FEW)


def test_a_certified_backend_that_is_not_here_is_said_and_the_others_run(
    edited: Callable[..., Bundle], quick_checkpoint: Path
) -> None:
    bundle = edited(lambda manifest: manifest["variants"][0].update(certified=["abacus", "onnxruntime"]))
    certificate = recertify(bundle, quick_checkpoint, options=RecertifyOptions(parity_frames=0, threads=1))
    assert [judged.backend.split()[0] for judged in certificate.verdicts] == ["onnxruntime"]
    (sentence,) = certificate.not_run
    assert "variant fp32 did not run on abacus" in sentence


@pytest.mark.parametrize("certified", [["abacus"], []], ids=["unknown", "none"])
def test_a_variant_that_no_backend_here_may_run_is_an_error(
    edited: Callable[..., Bundle], quick_checkpoint: Path, certified: list[str]
) -> None:
    bundle = edited(lambda manifest: manifest["variants"][0].update(certified=certified))
    with pytest.raises(MissingPartError, match="variant fp32 can't be judged"):
        recertify(bundle, quick_checkpoint, options=FEW)


def test_an_unknown_backend_is_refused_before_any_work(built: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="abacus"):
        recertify(open_bundle(built), tmp_path / "never read", options=RecertifyOptions(backend="abacus"))


def test_a_backend_that_this_cpu_can_not_use_leaves_the_other_verdicts(
    built: Path, quick_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spacecompile.runtime.backends import openvino_

    def refuse(*_: object) -> None:
        raise MissingPartError("no such instructions")

    monkeypatch.setattr(openvino_, "_cpu_facts", refuse)
    certificate = recertify(open_bundle(built), quick_checkpoint, options=FEW)
    assert [verdict.backend.split()[0] for verdict in certificate.verdicts] == ["onnxruntime"]
    assert certificate.not_run == ("variant fp32 did not run on openvino (no such instructions)",)
    with pytest.raises(MissingPartError, match=r"no variant can be judged .*no such instructions"):
        recertify(
            open_bundle(built),
            quick_checkpoint,
            options=RecertifyOptions(parity_frames=0, threads=1, backend="openvino"),
        )
