"""`spacecompile prove`: what the project promises of a GPU, shown on this one."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.cli.flags.json_destination import check_results, results_folder
from spacecompile.cli.flags.latency import DurationFlag, SamplesFlag, WarmupFlag, WarmupSecondsFlag
from spacecompile.errors import (
    DeviceError,
    DeviceLostError,
    InterruptedRunError,
    MissingPartError,
    ParityError,
    SpacecompileError,
    UsageError,
)
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.benchmarks.latency.interleaved import LatencySettings
    from spacecompile.benchmarks.proof.records import Proof
    from spacecompile.runtime.bundle import Bundle
    from spacecompile.runtime.cuda.device import CudaDevice
    from spacecompile.runtime.cuda.driver import GpuFacts

RESULTS = Path("benchmarks") / "results"
PARITY_FRAMES = 32


def prove(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.")],
    *,
    data: Annotated[
        Path | None, typer.Option(help="Frames to compare and time on.", show_default="rendered ones")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The bundle's source, to run in PyTorch.", show_default="looked for")
    ] = None,
    device: Annotated[str, typer.Option(help="GPU to prove on: cuda, the first that CUDA sees.")] = "cuda",
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            help="Write the proof to FILE, or into a folder under its own name, - for stdout.",
            show_default=str(RESULTS),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
    duration: DurationFlag = 60.0,
    samples: SamplesFlag = 64,
    warmup: WarmupFlag = 3,
    warmup_seconds: WarmupSecondsFlag = 2.0,
) -> None:
    """Show on a GPU all that is promised of it: answers, latency against PyTorch, limits, steadiness.

    Exits with 3 where there is nothing to prove on, and with 5 when an answer is not PyTorch's or not the same every
    time, after the document is written. Interrupted, it writes what it has, marked as partial.

    Example: spacecompile prove net.spacepkg --data frames
    """
    _check_device(device)
    require_extra("compile", "prove")
    from spacecompile.benchmarks.latency.interleaved import LatencySettings
    from spacecompile.benchmarks.proof.prove import runs_on_gpu
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.cuda.bindings import open_device

    latency = LatencySettings.for_samples(samples, duration_s=duration, warmup_rounds=warmup, warmup_s=warmup_seconds)
    opened = open_bundle(bundle)
    gpu = _gpu()
    runs_on_gpu(opened)
    gpu_device = open_device(0)
    source = _source(opened, checkpoint)
    if json is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        json = str(RESULTS)
    check_results(json, force=force, bundle=bundle)
    started_s = time.perf_counter()
    proof = _run(opened, source, gpu, gpu_device, data=data, latency=latency)
    say_proof(proof)
    destination = destination_of(json, gpu, force=force)
    console.emit_json(proof, destination)
    console.say_line(f"proven in {time.perf_counter() - started_s:.0f} s; written: {escape(destination)}")
    error = error_of(proof)
    if error is not None:
        error.has_document = destination == "-"
        raise error


def _check_device(device: str) -> None:
    """Refuse any device but the first GPU that CUDA sees."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if found is None:
        raise UsageError(f"--device is {device!r}; give cuda.")
    if device == "cpu":
        raise UsageError("prove shows what a GPU does: give --device cuda, or leave it out.")
    if int(found[1] or 0) > 0:
        raise UsageError(
            f"prove runs on the first GPU that CUDA sees, since PyTorch and every peer do: set "
            f"CUDA_VISIBLE_DEVICES={found[1]} and give --device cuda."
        )


def _source(bundle: Bundle, checkpoint: Path | None) -> Path:
    """The checkpoint that the bundle was built from; refuses one that is named and is another."""
    from spacecompile.benchmarks.source_checkpoint import check_checkpoint, find_checkpoint

    sha256 = bundle.manifest.source_sha256
    if checkpoint is not None:
        return check_checkpoint(checkpoint, sha256)
    found = find_checkpoint(sha256, bundle_root=bundle.root, working_folder=Path())
    if found is None:
        raise UsageError(
            f"the checkpoint with SHA-256 {sha256[:12]} is neither in checkpoints/ nor beside the bundle: without it "
            "there is no PyTorch to compare with. Name it with --checkpoint."
        )
    return found


def destination_of(json: str, gpu: GpuFacts, *, force: bool) -> str:
    """Name of the file that a proof goes to; in a folder it is made of the GPU and the day."""
    from spacecompile.benchmarks.result_file import dated_file

    folder = results_folder(json)
    return json if folder is None else str(dated_file(folder, "cuda", gpu.gpu, force=force))


def _gpu() -> GpuFacts:
    """The GPU's facts, once it is certain that CUDA and PyTorch can use it."""
    from spacecompile.runtime.cuda.driver import probe_cuda

    probe = probe_cuda()
    if probe.device is None:
        raise MissingPartError(
            f"there is nothing to prove on: {probe.problem}. Run it on a machine with an NVIDIA GPU."
        )
    import torch

    if not torch.cuda.is_available():
        raise MissingPartError(
            f"PyTorch {torch.__version__} can't use {probe.device.gpu}, so there is nothing to compare with. Install "
            "PyTorch's build for this driver's CUDA."
        )
    return probe.device


def _run(
    bundle: Bundle,
    checkpoint: Path,
    gpu: GpuFacts,
    device: CudaDevice,
    *,
    data: Path | None,
    latency: LatencySettings,
) -> Proof:
    from spacecompile.benchmarks.peers.table import PEERS, open_peers
    from spacecompile.benchmarks.proof.prove import ProofInput, ProofSettings
    from spacecompile.benchmarks.proof.prove import prove as run_proof
    from spacecompile.export.parity.frame_set import parity_frames
    from spacecompile.network.checkpoint import load_source
    from spacecompile.runtime.threads import usable_cores

    threads = usable_cores()
    with console.progress_bar() as progress, ExitStack() as stack:
        spec = bundle.manifest.spec
        frames = parity_frames(spec.frame_size_px, data=data, count=PARITY_FRAMES, progress=progress)
        entries = tuple(entry for entry in PEERS if entry.cuda)
        peers, missing = open_peers(checkpoint, spec, threads=threads, entries=entries, progress=progress)
        for peer in peers:
            stack.callback(peer.close)
        given = ProofInput(
            bundle=bundle,
            checkpoint=load_source(checkpoint, spec),
            frames=frames,
            peers=peers,
            missing_peers=missing,
            device=device,
            gpu=gpu,
        )
        return run_proof(given, ProofSettings(latency=latency, threads=threads), progress=progress)


def say_proof(proof: Proof) -> None:
    """One line per verdict, target and gap."""
    for proven in proof.parity:
        verdict = proven.verdict
        mark = "[green]same[/]" if verdict.passed else "[red]differs[/]"
        console.say_line(
            f"{mark} {escape(verdict.variant)} on {escape(verdict.backend)} against {proven.against}: class "
            f"probabilities within {verdict.class_probs_max:.1e}, parts IoU >= {verdict.parts_iou_min:.5f}, box within "
            f"{verdict.box_px_max:.2f} px"
        )
    for scope, limits in proof.limits.scopes.items() if proof.limits else ():
        for name, limit in limits.items():
            console.say_line(
                f"{escape(name)}, scope {scope}: {limit.measured_ms:.3g} ms, {limit.share:.0%} of what the GPU allows "
                f"({limit.limit_ms:.3g} ms, by {limit.bound})"
            )
    for target in proof.targets:
        mark = {True: "[green]kept[/]", False: "[red]not kept[/]", None: "[yellow]not measured[/]"}[target.held]
        number = target.missing if target.measured is None else f"{target.measured:.3g}"
        console.say_line(f"{mark} {escape(target.promise)}: {escape(number)}")
    for gap in proof.unproven:
        console.say_line(f"[yellow]unproven[/] {escape(gap)}")


def error_of(proof: Proof) -> SpacecompileError | None:
    """Error that the command fails with; None where everything was shown."""
    if proof.stopped_by:
        return DeviceLostError(f"{proof.stopped_by} What was shown until then stands above, marked as partial.")
    if proof.partial:
        return InterruptedRunError("stopped; what was shown until then stands above, marked as partial.")
    failed = [
        f"{proven.verdict.variant} on {proven.verdict.backend} against {proven.against}: "
        f"{'; '.join(proven.verdict.failures)}"
        for proven in proof.parity
        if not proven.verdict.passed
    ]
    failed += [
        f"{name} gave another answer to {soak.differing} of {soak.frames} frames than at first"
        for name, soak in proof.soak.items()
        if soak.differing
    ]
    if failed:
        return ParityError(f"the proof fails: {'. '.join(failed)}. Do not use these variants on this GPU.")
    if proof.unforeseen:
        return SpacecompileError(f"the proof is not whole: {' '.join(proof.unforeseen)} What it shows stands above.")
    if not proof.parity:
        return DeviceError(f"nothing could be proven: {' '.join(proof.unproven)}")
    return None
