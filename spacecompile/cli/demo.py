"""`spacecompile demo`: frames, bundle, answers and a benchmark page of the reference network, in one command."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from spacecompile._version import __version__
from spacecompile.cli import console
from spacecompile.cli.own_process import run_in_own_process
from spacecompile.files import write_file

# No checkpoint of ours was trained on this seed: what the demo shows are frames that the network has never seen.
FRAMES_SEED = 2026
NUM_FRAMES = 40
FRAME_SIZE_PX = 1024
NUM_PREDICTED = 12
NUM_SCORED = 20
BENCH_DURATION_S = 25.0
BENCH_SAMPLES_MIN = 24
# The two that everybody knows; `spacecompile bench` measures all of them, in more minutes.
BENCH_PEERS = ("plain-export", "pytorch-eager")

STATE_NAME = "state.json"


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """Where the demo's files lie."""

    root: Path

    @property
    def frames(self) -> Path:
        return self.root / "frames"

    @property
    def bundle(self) -> Path:
        return self.root / "reference.spacepkg"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def report(self) -> Path:
        return self.root / "bench.html"

    @property
    def results(self) -> Path:
        return self.root / "bench.json"


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of everything that the demo makes.")] = Path(
        "demo"
    ),
    force: Annotated[bool, typer.Option("--force", help="Do every step again, done or not.")] = False,
) -> None:
    """Render frames, build the reference checkpoint, answer frames and measure: something to look at in minutes.

    A step whose inputs did not change since the last time is skipped. Interrupted, the same command goes on.
    """
    from spacecompile.benchmarks.source_checkpoint import reference_checkpoint

    start_s = time.perf_counter()
    checkpoint = reference_checkpoint()
    folder = _Folder(root=output)
    state = _State.read(output / STATE_NAME, forget=force)
    _frames(folder, force=force)
    _build(checkpoint, folder, force=force)
    inputs = [_bundle_key(folder), _frames_key(folder)]
    state.step("predict", [*inputs, NUM_PREDICTED], folder.predictions, lambda: _predict(folder))
    bench_inputs = [*inputs, NUM_SCORED, BENCH_DURATION_S, BENCH_SAMPLES_MIN]
    state.step("bench", bench_inputs, folder.report, lambda: _bench(checkpoint, folder))
    console.say(f"\ndemo done in {time.perf_counter() - start_s:.0f} s. Look at:")
    console.say(f"  answers drawn on their frames   {escape(str(folder.predictions))}/")
    console.say(f"  report                          {escape(str(folder.report))}")
    console.say(f"next: [bold]spacecompile predict {console.quoted(folder.bundle)} YOUR_IMAGES -o predictions[/]")


@dataclass
class _State:
    """Which steps are done, by the hash of what went into them."""

    path: Path
    keys: dict[str, str]

    @classmethod
    def read(cls, path: Path, *, forget: bool) -> _State:
        try:
            found = {} if forget else json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        return cls(path=path, keys=found if isinstance(found, dict) else {})

    def step(self, name: str, inputs: list[Any], product: Path, run: Callable[[], None]) -> None:
        """Run a step unless it was run on the same inputs by this version and its product is still there."""
        key = hashlib.sha256(json.dumps([__version__, *inputs]).encode()).hexdigest()
        if self.keys.get(name) == key and product.exists():
            console.say(f"[bold]{name}[/] skipped: {escape(str(product))} is up to date")
            return
        _step(name, run)
        self.keys[name] = key
        write_file(self.path, json.dumps(self.keys, indent=2) + "\n", remedy="Choose another --output.")


def _step(name: str, run: Callable[[], None]) -> None:
    start_s = time.perf_counter()
    console.say(f"[bold]{name}[/]")
    run()
    console.say(f"[bold]{name}[/] took {time.perf_counter() - start_s:.1f} s\n")


def _frames(folder: _Folder, *, force: bool) -> None:
    """Rendering resumes by itself: frames that are there are kept, unless forced."""
    from spacecompile.cli.render import render

    def run() -> None:
        render(output=folder.frames, frames=NUM_FRAMES, seed=FRAMES_SEED, split="val", size=FRAME_SIZE_PX, force=force)

    _step("render", run)


def _build(checkpoint: Path, folder: _Folder, *, force: bool) -> None:
    from spacecompile.cli.reference_bundle import is_current

    if not force and is_current(folder.bundle, checkpoint):
        console.say(f"[bold]build[/] skipped: {escape(str(folder.bundle))} is up to date")
        return
    arguments = ["build", str(checkpoint), "-o", str(folder.bundle), "--data", str(folder.frames), "--force"]
    _step("build", lambda: run_in_own_process(arguments))


def _bundle_key(folder: _Folder) -> str:
    from spacecompile.runtime.bundle import open_bundle

    return open_bundle(folder.bundle, verify=False).manifest_sha256


def _frames_key(folder: _Folder) -> str:
    """Hash of what says how the frames were made, and of their labels."""
    from spacecompile.data.render.folder import facts_path

    paths = (facts_path(folder.frames, "val"), folder.frames / "val.csv")
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _predict(folder: _Folder) -> None:
    from spacecompile.benchmarks.frame_stream import labelled_frames
    from spacecompile.cli.predict import predict

    images = [str(frame.image_path) for frame in labelled_frames(folder.frames, "val", NUM_PREDICTED)]
    predict(folder.bundle, images, output=folder.predictions, force=True)


def _bench(checkpoint: Path, folder: _Folder) -> None:
    from spacecompile.cli.bench import bench

    bench(
        folder.bundle,
        data=folder.frames,
        limit=NUM_SCORED,
        checkpoint=checkpoint,
        duration=BENCH_DURATION_S,
        samples=BENCH_SAMPLES_MIN,
        peer=list(BENCH_PEERS),
        starts=1,
        torch_scores=False,
        report=folder.report,
        json=str(folder.results),
        force=True,
    )
