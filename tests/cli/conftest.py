"""A bundle that is whole, but whose graph TensorRT would not take."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import helper

from spacecompile.contract import FileFact, Manifest
from spacecompile.runtime.bundle import open_bundle


def with_variant(bundle: Path, copy: Path, content: bytes) -> Path:
    """A copy of a bundle whose fp32 file is another one, its manifest saying so."""
    shutil.copytree(bundle, copy)
    manifest = msgspec.json.decode((copy / "manifest.json").read_bytes(), type=Manifest)
    path = manifest.variants[0].path
    (copy / path).write_bytes(content)
    fact = FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    manifest = msgspec.structs.replace(manifest, files=manifest.files | {path: fact})
    (copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return copy


@pytest.fixture
def illegal_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose fp32 graph has a node that TensorRT refuses."""
    bundle = open_bundle(tiny_bundle)
    model = onnx.load_from_string(bundle.read(bundle.manifest.variants[0].path))
    model.graph.node.append(helper.make_node("NonZero", ["class_probs"], ["indices"], name="pick"))
    return with_variant(tiny_bundle, tmp_path / "illegal.spacepkg", model.SerializeToString())
