from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacecompile.contract import SCHEMA_VERSION
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.runtime.bundle import open_bundle

MODEL = "variants/fp32/model.onnx"

Change = Callable[[dict[str, Any]], None]
EditManifest = Callable[[Path, Change], None]


def test_an_honest_bundle_opens(color_bundle: Path) -> None:
    bundle = open_bundle(color_bundle)
    assert bundle.manifest.name == "color"
    assert bundle.read(MODEL) == (color_bundle / MODEL).read_bytes()
    assert bundle.extra_files == ()


def test_a_bundle_may_be_reached_through_a_link(color_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(color_bundle)
    assert open_bundle(tmp_path / "link").read(MODEL)


def test_the_manifest_hash_tells_bundles_apart(color_bundle: Path, edit_manifest: EditManifest) -> None:
    before = open_bundle(color_bundle).manifest_sha256
    edit_manifest(color_bundle, lambda manifest: manifest.update(name="other"))
    assert open_bundle(color_bundle).manifest_sha256 != before


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_bit_is_found_when_the_bundle_is_opened(color_bundle: Path) -> None:
    flip_a_bit(color_bundle / MODEL)
    with pytest.raises(IntegrityError, match=r"model\.onnx has SHA-256 [0-9a-f]{64}; the manifest says"):
        open_bundle(color_bundle)


def test_one_flipped_bit_is_found_when_the_file_is_read(color_bundle: Path) -> None:
    bundle = open_bundle(color_bundle, verify=False)
    flip_a_bit(color_bundle / MODEL)
    with pytest.raises(IntegrityError, match="SHA-256"):
        bundle.read(MODEL)


def test_every_file_is_verified_not_only_the_graphs(color_bundle: Path) -> None:
    flip_a_bit(color_bundle / "reports/parity.json")
    with pytest.raises(IntegrityError, match=r"parity\.json"):
        open_bundle(color_bundle, verify=False).verify_all()


@pytest.mark.parametrize("bytes_kept", [0, 10], ids=["emptied", "cut off"])
def test_a_truncated_file_is_refused_without_hashing(color_bundle: Path, bytes_kept: int) -> None:
    os.truncate(color_bundle / MODEL, bytes_kept)
    with pytest.raises(IntegrityError, match=f"has {bytes_kept} bytes; the manifest says"):
        open_bundle(color_bundle, verify=False)


def test_a_file_that_grew_after_opening_is_refused(color_bundle: Path) -> None:
    bundle = open_bundle(color_bundle, verify=False)
    with (color_bundle / MODEL).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(IntegrityError, match="bytes; the manifest says"):
        bundle.read(MODEL)


def test_a_missing_file_is_refused(color_bundle: Path) -> None:
    (color_bundle / MODEL).unlink()
    with pytest.raises(IntegrityError, match=r"model\.onnx can't be read: No such file"):
        open_bundle(color_bundle, verify=False)


def test_a_file_that_is_not_listed_can_not_be_read(color_bundle: Path) -> None:
    (color_bundle / "note.txt").write_text("hello")
    with pytest.raises(IntegrityError, match=r"lists no file 'note\.txt'"):
        open_bundle(color_bundle).read("note.txt")


def test_unlisted_files_are_reported_and_fail_only_the_full_check(color_bundle: Path) -> None:
    (color_bundle / "variants/fp32/.DS_Store").write_bytes(b"junk")
    (color_bundle / "variants/fp32/._model.onnx").write_bytes(b"junk")
    (color_bundle / "variants/fp32/model.data").write_bytes(b"weights")
    (color_bundle / "elsewhere").symlink_to("/")
    bundle = open_bundle(color_bundle)
    assert bundle.extra_files == ("elsewhere", "variants/fp32/model.data")
    with pytest.raises(IntegrityError, match=r"does not list: elsewhere, variants/fp32/model\.data"):
        bundle.verify_all()


def test_a_full_check_reports_its_progress(color_bundle: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    open_bundle(color_bundle, verify=False).verify_all(progress=lambda *step: seen.append(step))
    assert seen == [("hashes", 1, 2), ("hashes", 2, 2)]


def point_elsewhere(manifest: dict[str, Any], path: str) -> None:
    manifest["files"][path] = manifest["files"].pop(MODEL)
    manifest["variants"][0]["path"] = path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=SCHEMA_VERSION + 1), f"has schema version {SCHEMA_VERSION + 1}; this space"),
        (lambda m: m.update(surprise=1), "unknown field `surprise`"),
        (lambda m: m.pop("spec"), "missing required field `spec`"),
        (lambda m: m["spec"].update(classes=["one"]), "impossible spec"),
        (lambda m: m["spec"].update(input_size_px=[64]), "Expected `array` of length 2"),
        (lambda m: m.update(variants=[]), "it has no variant"),
        (lambda m: m.update(variants=m["variants"] * 2), "repeat"),
        (lambda m: m["variants"][0].update(path="variants/fp32/other.onnx"), "has no hash"),
        (lambda m: m["variants"][0].update(precision="fp4"), "Invalid enum value 'fp4'"),
        (lambda m: m["files"][MODEL].update(sha256="ABC"), "malformed"),
        (lambda m: m["files"][MODEL].update(bytes=-1), "malformed"),
        (lambda m: m.update(health_signals=["frame_mean"]), "health signals"),
        (lambda m: point_elsewhere(m, "../outside.onnx"), "not a path inside the bundle"),
        (lambda m: point_elsewhere(m, "/etc/hostname"), "not a path inside the bundle"),
        (lambda m: point_elsewhere(m, "variants\\model.onnx"), "not a path inside the bundle"),
        (lambda m: point_elsewhere(m, "nul\0byte"), "not a path inside the bundle"),
    ],
    ids=[
        "foreign schema version",
        "unknown field",
        "missing field",
        "impossible classes",
        "wrong type",
        "no variant",
        "two variants of one name",
        "variant without a hash",
        "unknown precision",
        "malformed hash",
        "negative size",
        "other health signals",
        "path above the bundle",
        "absolute path",
        "backslashes",
        "nul in a path",
    ],
)
def test_a_manifest_that_is_off_is_refused(
    color_bundle: Path, edit_manifest: EditManifest, change: Change, message: str
) -> None:
    edit_manifest(color_bundle, change)
    with pytest.raises(IntegrityError, match=message) as caught:
        open_bundle(color_bundle)
    assert "uild" in str(caught.value)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"schema_version": "1"}', b"[" * 100_000, b'{"schema_version": NaN}'],
    ids=["empty", "cut off", "a list", "null", "not UTF-8", "version as text", "deep", "NaN"],
)
def test_a_manifest_that_is_no_json_object_is_refused(color_bundle: Path, content: bytes) -> None:
    (color_bundle / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="is not a manifest"):
        open_bundle(color_bundle)


def test_every_truncation_of_a_manifest_is_refused(color_bundle: Path) -> None:
    content = (color_bundle / "manifest.json").read_bytes()
    for length in range(0, len(content), 13):
        (color_bundle / "manifest.json").write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            open_bundle(color_bundle)


@pytest.mark.parametrize("linked", [MODEL, "variants/fp32", "manifest.json"])
def test_links_inside_a_bundle_are_refused(color_bundle: Path, tmp_path: Path, linked: str) -> None:
    shutil.move(color_bundle / linked, tmp_path / "outside")
    (color_bundle / linked).symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="behind a symbolic link"):
        open_bundle(color_bundle)


def test_a_loop_of_links_is_refused(color_bundle: Path) -> None:
    (color_bundle / MODEL).unlink()
    (color_bundle / MODEL).symlink_to("model.onnx")
    with pytest.raises(IntegrityError):
        open_bundle(color_bundle)


def test_a_pipe_is_not_waited_for(color_bundle: Path) -> None:
    (color_bundle / MODEL).unlink()
    os.mkfifo(color_bundle / MODEL)
    with pytest.raises(IntegrityError, match="not a plain file"):
        open_bundle(color_bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json can't be read: No such file"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["nothing.spacepkg", "color.spacepkg/manifest.json"], ids=["missing", "a file"])
def test_a_path_that_is_no_folder_is_a_usage_error(color_bundle: Path, name: str) -> None:
    with pytest.raises(UsageError):
        open_bundle(color_bundle.parent / name)


def test_an_unknown_variant_is_answered_with_the_known_ones(color_bundle: Path) -> None:
    with pytest.raises(UsageError, match="has no variant 'fp16'; it has fp32"):
        open_bundle(color_bundle).variant("fp16")


def test_messages_show_the_path_as_the_user_wrote_it(color_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(color_bundle.parent)
    manifest = json.loads((color_bundle / "manifest.json").read_bytes())
    manifest["name"] = 5
    (color_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"^color\.spacepkg/manifest\.json is not a manifest"):
        open_bundle("color.spacepkg")
