"""The renderer: the same bytes for everyone, exact labels, ten craft that can be told apart, folders that resume."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data import spark
from spacecompile.data.labels import read_split
from spacecompile.data.render import dataset
from spacecompile.data.render.cast import Region, cast_region, craft_region, sunlit
from spacecompile.data.render.dataset import render_dataset
from spacecompile.data.render.fleet import NUM_WING_STEPS, build_craft, sun_wing_step
from spacecompile.data.render.frame import MIN_SILHOUETTE_PX, RenderedFrame, render_frame
from spacecompile.data.render.scene import class_name_of, random_scene
from spacecompile.data.render.settings import RenderSettings
from spacecompile.errors import DataError, OutputError, UsageError

SMALL = RenderSettings(num_frames=60, seed=5, frame_size_px=160)


@pytest.fixture(scope="module")
def frames() -> list[RenderedFrame]:
    return [render_frame(SMALL, index) for index in range(SMALL.num_frames)]


def tree_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def identity_scene(class_name: str, size_px: int = 200):
    """The craft seen along its z axis, filling most of the frame."""
    scene = random_scene(np.random.default_rng(0), class_name, size_px)
    craft = build_craft(class_name, 0)
    position_X = np.array([0, 0, 4 * craft.radius_m], np.float32)
    tilt = np.array([[0.8, 0, 0.6], [0.36, 0.8, -0.48], [-0.48, 0.6, 0.64]], np.float32)
    return replace(
        scene, craft=craft, camera_from_craft=tilt, position_X=position_X, focal_px=2.0 * size_px * 0.8
    )  # fmt: skip


def silhouette_HW(class_name: str, size_px: int = 200) -> np.ndarray:
    scene = identity_scene(class_name, size_px)
    whole = Region(x_min=0, y_min=0, x_max=size_px, y_max=size_px)
    hits = cast_region(scene, whole, size_px, (0.5, 0.5))
    parts_HW = np.zeros(size_px * size_px, np.uint8)
    parts_HW[hits.pixel_N] = scene.craft.part_F[hits.face_N]
    return parts_HW.reshape(size_px, size_px)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    settings = replace(SMALL, num_frames=8)
    one = render_dataset(tmp_path / "one", settings, workers=1)
    two = render_dataset(tmp_path / "two", settings, workers=2)
    assert (one.workers, two.workers) == (1, 2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_a_frame_alone_is_the_frame_among_others(frames: list[RenderedFrame]) -> None:
    alone = render_frame(replace(SMALL, num_frames=1000), 41)
    np.testing.assert_array_equal(alone.frame_HWC, frames[41].frame_HWC)
    np.testing.assert_array_equal(alone.parts_HW, frames[41].parts_HW)


def test_splits_and_seeds_share_no_frame(frames: list[RenderedFrame]) -> None:
    others = [render_frame(replace(SMALL, split="val"), index) for index in range(6)]
    others += [render_frame(replace(SMALL, seed=6), index) for index in range(6)]
    seen = {frame.parts_HW.tobytes() for frame in frames}
    assert not seen & {frame.parts_HW.tobytes() for frame in others}
    assert len(seen) == len(frames)


def test_every_ten_frames_hold_each_class_once() -> None:
    for block in range(5):
        names = [class_name_of(SMALL, 10 * block + position) for position in range(10)]
        assert sorted(names) == sorted(SPARK_CLASSES)
    orders = {tuple(class_name_of(SMALL, 10 * block + position) for position in range(10)) for block in range(5)}
    assert len(orders) > 1


def test_boxes_are_tight_around_the_parts(frames: list[RenderedFrame]) -> None:
    for frame in frames:
        x_min, y_min, x_max, y_max = frame.box_xyxy
        inside_HW = frame.parts_HW[y_min:y_max, x_min:x_max]
        assert np.count_nonzero(inside_HW) == np.count_nonzero(frame.parts_HW)
        for edge in (inside_HW[0], inside_HW[-1], inside_HW[:, 0], inside_HW[:, -1]):
            assert edge.any()
        assert max(x_max - x_min, y_max - y_min) >= MIN_SILHOUETTE_PX


def test_frames_have_the_published_layout_and_most_show_both_parts(frames: list[RenderedFrame]) -> None:
    with_both = 0
    for frame in frames:
        assert (frame.frame_HWC.shape, frame.frame_HWC.dtype) == ((160, 160, 3), np.uint8)
        labels = set(np.unique(frame.parts_HW).tolist())
        assert labels <= {0, spark.BODY_BIT, spark.PANEL_BIT}
        assert spark.BODY_BIT in labels
        with_both += spark.PANEL_BIT in labels
    assert with_both >= 0.8 * len(frames)


def test_ranges_go_from_a_few_dozen_pixels_to_cut_off(frames: list[RenderedFrame]) -> None:
    sides = [max(f.box_xyxy[2] - f.box_xyxy[0], f.box_xyxy[3] - f.box_xyxy[1]) for f in frames]
    cut_off = [f for f in frames if 0 in f.box_xyxy[:2] or 160 in f.box_xyxy[2:]]
    assert min(sides) <= 45
    assert max(sides) == 160
    assert 0.05 * len(frames) < len(cut_off) < 0.7 * len(frames)


def test_every_background_occurs_and_dark_frames_are_dark(frames: list[RenderedFrame]) -> None:
    counts = Counter(frame.facts["background"] for frame in frames)
    assert set(counts) == {"space", "stars", "limb", "earth"}
    for frame in frames:
        if frame.facts["background"] == "space":
            behind = frame.frame_HWC[frame.parts_HW == 0]
            assert np.median(behind) <= 12
    assert max(float(frame.frame_HWC.mean()) for frame in frames) > 90


def test_the_craft_can_be_seen_in_nearly_every_frame(frames: list[RenderedFrame]) -> None:
    bright = [float(np.quantile(frame.frame_HWC[frame.parts_HW > 0], 0.97)) for frame in frames]
    assert np.mean(np.array(bright) > 40) > 0.9


@pytest.mark.parametrize("class_name", SPARK_CLASSES)
def test_every_craft_has_body_and_panel_in_realistic_proportion(class_name: str) -> None:
    parts_HW = silhouette_HW(class_name)
    body_share = np.mean(parts_HW[parts_HW > 0] == spark.BODY_BIT)
    assert 0.1 < body_share < 0.95 or class_name in ("Proba3ocs", "LisaPathfinder")
    craft = build_craft(class_name, 0)
    assert set(np.unique(craft.part_F).tolist()) == {spark.BODY_BIT, spark.PANEL_BIT}
    assert 0.9 < craft.radius_m < 10
    lengths = np.linalg.norm(craft.normals_F3X, axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def test_no_two_craft_look_alike() -> None:
    silhouettes = {name: silhouette_HW(name) for name in SPARK_CLASSES}
    for first, second in combinations(SPARK_CLASSES, 2):
        a, b = silhouettes[first], silhouettes[second]
        same = np.count_nonzero((a == b) & (a > 0)) / np.count_nonzero(a | b)
        assert same < 0.85, (first, second)


def test_published_spans_hold() -> None:
    spans_m = {name: float(np.ptp(build_craft(name, 0).vertices_VX, axis=0).max()) for name in SPARK_CLASSES}
    published_m = {"Smart1": 14.0, "XMM Newton": 16.0, "Soho": 9.5, "VenusExpress": 8.0, "Proba3ocs": 1.5}
    for name, span_m in published_m.items():
        assert spans_m[name] == pytest.approx(span_m, rel=0.06)


def test_wings_turn_to_the_sun_and_fixed_panels_do_not() -> None:
    assert sun_wing_step("Smart1", np.array([0, 0, 1], np.float32)) == 0
    assert sun_wing_step("Smart1", np.array([0, 0, -1], np.float32)) == NUM_WING_STEPS // 2
    assert sun_wing_step("Proba2", np.array([0, 0, -1], np.float32)) == 0
    turned = build_craft("Smart1", 2).vertices_VX
    assert np.abs(build_craft("Smart1", 0).vertices_VX - turned).max() > 0.3


def test_shadows_are_cast_by_one_part_on_another() -> None:
    scene = identity_scene("XMM Newton")
    region = craft_region(scene, 200)
    assert region is not None
    hits = cast_region(scene, region, 200, (0.5, 0.5))
    along_boom = np.array([0, 1, 0], np.float32)
    faces_sun = hits.flat_normal_NX @ along_boom > 0.05
    lit = sunlit(scene.craft, hits.point_NX, hits.flat_normal_NX, along_boom)
    assert not lit[~(hits.flat_normal_NX @ along_boom > 0)].any()
    assert 0.05 < lit[faces_sun].mean() < 0.98


def test_the_region_holds_every_hit() -> None:
    for seed in range(12):
        name = SPARK_CLASSES[seed % 10]
        scene = random_scene(np.random.default_rng(seed), name, 128)
        whole = Region(x_min=0, y_min=0, x_max=128, y_max=128)
        row, column = np.divmod(cast_region(scene, whole, 128, (0.5, 0.5)).pixel_N, 128)
        region = craft_region(scene, 128)
        if region is None:
            assert not len(row)
            continue
        assert ((row >= region.y_min) & (row < region.y_max)).all()
        assert ((column >= region.x_min) & (column < region.x_max)).all()


def test_more_samples_change_colours_but_no_label(frames: list[RenderedFrame]) -> None:
    finer = render_frame(replace(SMALL, samples_per_pixel=4), 3)
    np.testing.assert_array_equal(finer.parts_HW, frames[3].parts_HW)
    assert not np.array_equal(finer.frame_HWC, frames[3].frame_HWC)


def test_files_match_the_frames_they_came_from(tmp_path: Path, frames: list[RenderedFrame]) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=6))
    for frame, label in zip(frames, read_split(tmp_path, "train"), strict=False):
        np.testing.assert_array_equal(spark.parts_HW_from_mask(label.mask_path), frame.parts_HW)
        assert (label.box_xyxy, label.class_name) == (frame.box_xyxy, frame.class_name)
        difference = spark.read_frame_HWC(label.image_path).astype(int) - frame.frame_HWC
        assert np.abs(difference).mean() < 8


def test_a_second_run_renders_only_what_is_missing_or_broken(tmp_path: Path) -> None:
    settings = replace(SMALL, num_frames=5)
    render_dataset(tmp_path, settings)
    before = tree_bytes(tmp_path)
    labels = read_split(tmp_path, "train")
    labels[1].image_path.unlink()
    labels[3].mask_path.write_bytes(labels[3].mask_path.read_bytes()[:-30])
    seen: list[tuple[str, int, int]] = []
    summary = render_dataset(tmp_path, settings, progress=lambda *report: seen.append(report))
    assert summary.rendered == 2
    assert seen == [("render", 3, 5), ("render", 4, 5), ("render", 5, 5)]
    assert tree_bytes(tmp_path) == before


def test_a_split_can_be_made_longer(tmp_path: Path) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=2))
    assert render_dataset(tmp_path, replace(SMALL, num_frames=4)).rendered == 2
    assert len(read_split(tmp_path, "train")) == 4


def test_a_split_is_never_made_shorter_by_accident(tmp_path: Path) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=3))
    before = tree_bytes(tmp_path)
    with pytest.raises(OutputError, match="holds 3 train frames; --frames 2 would drop some"):
        render_dataset(tmp_path, replace(SMALL, num_frames=2))
    assert tree_bytes(tmp_path) == before
    assert render_dataset(tmp_path, replace(SMALL, num_frames=2), force=True).rendered == 2
    assert len(read_split(tmp_path, "train")) == len(list(tmp_path.rglob("*_img.jpg"))) == 2


def test_a_damaged_csv_is_reported_and_left_alone(tmp_path: Path) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=2))
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a UTF-8 csv"):
        render_dataset(tmp_path, replace(SMALL, num_frames=2))
    assert (tmp_path / "train.csv").read_bytes() == b"\xff\xfe"


def test_train_and_val_live_in_one_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        render_dataset(tmp_path, replace(SMALL, num_frames=2, split=split))
    assert len(read_split(tmp_path, "train")) == len(read_split(tmp_path, "val")) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_a_folder_that_resumes(tmp_path: Path, workers: int) -> None:
    settings = replace(SMALL, num_frames=8)

    def interrupt(step: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path, settings, workers=workers, progress=interrupt)
    assert not (tmp_path / "train.csv").exists()
    assert not list(tmp_path.rglob(".partial-*"))
    summary = render_dataset(tmp_path, settings)
    assert summary.rendered <= 5
    assert len(read_split(tmp_path, "train")) == 8


@pytest.mark.parametrize(
    "change", [{"seed": 9}, {"frame_size_px": 128}, {"samples_per_pixel": 2}, {"jpeg_quality": 80}], ids=str
)
def test_a_split_of_other_settings_is_refused_and_replaced_by_force(tmp_path: Path, change: dict[str, int]) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=2))
    before = tree_bytes(tmp_path)
    other = replace(SMALL, num_frames=1, **change)
    with pytest.raises(OutputError, match=f"{next(iter(change))} .* instead of"):
        render_dataset(tmp_path, other)
    assert tree_bytes(tmp_path) == before
    assert render_dataset(tmp_path, other, force=True).rendered == 1
    assert len(list(tmp_path.rglob("*_img.jpg"))) == 1


def test_a_split_that_render_did_not_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Image name,Mask name,Class,Bounding box\n")
    with pytest.raises(OutputError, match="--force"):
        render_dataset(tmp_path, replace(SMALL, num_frames=1))
    (tmp_path / "render-val.json").write_text("{")
    with pytest.raises(OutputError, match="can't be read"):
        render_dataset(tmp_path, replace(SMALL, num_frames=1, split="val"))


def test_the_facts_file_holds_the_settings(tmp_path: Path) -> None:
    render_dataset(tmp_path, replace(SMALL, num_frames=1))
    facts = json.loads((tmp_path / "render-train.json").read_text())
    assert facts == SMALL.pixel_facts()
    assert facts["renderer_version"] >= 1


def test_a_file_as_output_and_no_workers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        render_dataset(tmp_path / "file", SMALL)
    with pytest.raises(UsageError, match="at least 1"):
        render_dataset(tmp_path / "data", SMALL, workers=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_frames", 0), ("seed", -1), ("split", "test"), ("frame_size_px", 32), ("samples_per_pixel", 0),
     ("jpeg_quality", 101)],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(field: str, value: int | str) -> None:
    with pytest.raises(UsageError, match=f"{field} is"):
        replace(SMALL, **{field: value})


def test_a_dead_worker_is_reported_and_the_folder_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_quiet_worker", _die)
    with pytest.raises(OutputError, match="worker died"):
        render_dataset(tmp_path, replace(SMALL, num_frames=4), workers=2)
    monkeypatch.undo()
    assert render_dataset(tmp_path, replace(SMALL, num_frames=4)).rendered == 4


def _die() -> None:
    raise SystemExit(1)
