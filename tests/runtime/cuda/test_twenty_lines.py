"""The examples of docs/how_to/cuda.md, run as they are written there, on a fake GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDevice
from fake_tensorrt import install
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
GUIDE = ROOT / "docs" / "how_to" / "cuda.md"
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the guide comes with a clone")


def examples() -> dict[str, str]:
    """Python blocks by the heading that they stand under."""
    sections = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {
        text.splitlines()[0]: re.findall(r"^```python.*?\n(.*?)^```", text, flags=re.M | re.S) for text in sections
    }
    return {heading: "\n".join(blocks) for heading, blocks in found.items()}


class Camera:
    """Three frames, on the host or on the fake GPU."""

    def __init__(self, frame_HWC: NDArray[np.uint8], device: FakeDevice) -> None:
        self.frames = [np.roll(frame_HWC, shift, axis=1) for shift in range(3)]
        self.on_gpu = [(device.put(frame_HWC), 1) for frame_HWC in self.frames]

    def __iter__(self) -> Any:
        return iter(self.frames)

    def buffers(self) -> Any:
        return iter(self.on_gpu)


@pytest.mark.parametrize("heading", ["A camera loop", "A frame that is on the GPU", "Several frames in flight"])
def test_an_example_of_the_guide_runs_and_answers(
    heading: str,
    color_bundle: Path,
    craft_frame: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    device = FakeDevice(is_late=False)
    install(monkeypatch, tmp_path / "package", device)
    answers: list[Any] = []
    code = examples()[heading]
    assert len(re.findall(r"\S", code)) > 100
    assert len(code.strip().splitlines()) <= 20
    monkeypatch.chdir(color_bundle.parent)
    color_bundle.rename(tmp_path / "net.spacepkg")
    names = {"camera": Camera(craft_frame, device), "steer": answers.append, "H": 96, "W": 128}
    exec(compile(code, str(GUIDE), "exec"), names)
    assert [answer.box_xyxy.tolist() for answer in answers] == [[30 + i, 20, 90 + i, 40] for i in range(3)]
