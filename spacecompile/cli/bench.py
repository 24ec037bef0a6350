"""`spacecompile bench`: budgets, score and latency of a bundle against its peers."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.cli.flags.json_destination import check_results, results_folder
from spacecompile.cli.flags.latency import (
    DurationFlag,
    SamplesFlag,
    WarmupFlag,
    WarmupSecondsFlag,
    percentiles_from_text,
)
from spacecompile.cli.own_process import run_in_own_process
from spacecompile.errors import InterruptedRunError, SpacecompileError, UsageError
from spacecompile.extras import require_extra
from spacecompile.files import check_destination, write_file

if TYPE_CHECKING:
    from spacecompile.benchmarks.result_records import BenchResult
    from spacecompile.benchmarks.settings import BenchSettings
    from spacecompile.benchmarks.suite import BenchRun

REFERENCE_BUNDLE = Path("runs") / "reference.spacepkg"

# One group per settings class: BenchSettings, LoadSettings, ContestSettings, FurtherSettings. LatencySettings has its
# options in flags/latency.py.
_MEASURED = partial(typer.Option, rich_help_panel="What is measured")
_LOADED = partial(typer.Option, rich_help_panel="How variants are run")
_TIMED = partial(typer.Option, rich_help_panel="Who and what is timed")
_LIMITS = partial(typer.Option, rich_help_panel="Limits of the machine")


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle that `build` made.", show_default="one of the reference checkpoint")
    ] = None,
    *,
    report: Annotated[Path | None, typer.Option(help="Write the result as one offline HTML file.")] = None,
    json: Annotated[
        str | None,
        typer.Option("--json", help="Write the result to FILE, or into a folder under its own name, - for stdout."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report and the JSON file.")] = False,
    variant: Annotated[
        list[str] | None, _MEASURED(metavar="NAME", help="Only this variant; may be repeated.", show_default="all")
    ] = None,
    data: Annotated[
        Path | None, _MEASURED(help="Labelled frames in the SPARK format, to score and to time on.")
    ] = None,
    split: Annotated[str, _MEASURED(help="Split of --data.")] = "val",
    limit: Annotated[int | None, _MEASURED(help="Frames of --data to score.", show_default="all")] = None,
    budget: Annotated[
        Path | None, _MEASURED(help="TOML file with limits, such as gmacs_max = 5.", show_default="the benchmark's")
    ] = None,
    peers: Annotated[
        bool, _MEASURED("--peers/--no-peers", help="Measure PyTorch and plain exports, and count PyTorch's stages.")
    ] = True,
    checkpoint: Annotated[
        Path | None,
        _MEASURED(help="The bundle's source, for whatever PyTorch does and for --scaling.", show_default="looked for"),
    ] = None,
    torch_scores: Annotated[
        bool, _MEASURED("--torch-scores/--no-torch-scores", help="Score PyTorch on --data too.")
    ] = True,
    starts: Annotated[
        int, _MEASURED(help="Processes per variant that load time and memory are measured in; 0 for none.")
    ] = 3,
    throughput: Annotated[
        bool, _MEASURED("--throughput", help="Measure frames per second of sessions side by side.")
    ] = False,
    backend: Annotated[
        str, _LOADED(help="auto; all, for every engine that is certified and present; or names with commas.")
    ] = "auto",
    threads: Annotated[
        int | None, _LOADED(help="Threads of every contestant on the CPU.", show_default="the usable cores")
    ] = None,
    spinning: Annotated[bool, _LOADED("--spinning/--no-spinning", help="Let idle threads wait busily.")] = True,
    duration: DurationFlag = 60.0,
    samples: SamplesFlag = 64,
    warmup: WarmupFlag = 3,
    warmup_seconds: WarmupSecondsFlag = 2.0,
    peer: Annotated[
        list[str] | None, _TIMED(metavar="NAME", help="Only this peer; may be repeated.", show_default="all that fit")
    ] = None,
    percentiles: Annotated[str, _TIMED(help="Percentiles to print beside 50, 90 and 99, such as 99.9.")] = "50,90,99",
    from_file: Annotated[bool, _TIMED("--from-file/--no-from-file", help="Time image files too.")] = True,
    rate: Annotated[
        float | None, _TIMED(help="Hand over frames at this rate in Hz afterwards, and count misses.")
    ] = None,
    paced_seconds: Annotated[float, _TIMED(help="Seconds that --rate lasts for each contestant.")] = 10.0,
    energy: Annotated[bool, _TIMED("--energy/--no-energy", help="Read RAPL and NVML where they are.")] = True,
    roofline: Annotated[
        bool, _LIMITS("--roofline/--no-roofline", help="Measure the machine's limits and the share reached.")
    ] = True,
    profile: Annotated[
        bool, _LIMITS("--profile", help="Time every layer in its engine; measures the limits too.")
    ] = False,
    scaling: Annotated[
        bool, _LIMITS("--scaling", help="Build other sizes, batches and threads, and measure them.")
    ] = False,
) -> None:
    """Measure a bundle: budgets, score, and latency against PyTorch and a plain export on the same frames.

    Exits with 6 when a budget is exceeded or can't be judged, after everything is written. Interrupted, it writes what
    it has, marked as partial.

    Example: spacecompile bench net.spacepkg --data frames --report bench.html --json bench.json
    """
    require_extra("bench", "bench")
    from spacecompile.benchmarks.cost.budget import read_budget
    from spacecompile.benchmarks.latency.interleaved import LatencySettings
    from spacecompile.benchmarks.latency.variants import LoadSettings
    from spacecompile.benchmarks.settings import BenchSettings, ContestSettings, FurtherSettings
    from spacecompile.contract import Budget
    from spacecompile.runtime.threads import usable_cores

    backends = tuple(dict.fromkeys(name.strip() for name in backend.split(",")))
    contest = ContestSettings(
        how=LoadSettings(
            backend=backends[0], threads=usable_cores() if threads is None else threads, spinning=spinning
        ),
        latency=LatencySettings.for_samples(
            samples, duration_s=duration, warmup_rounds=warmup, warmup_s=warmup_seconds
        ),
        percentiles=percentiles_from_text(percentiles),
        peers=tuple(peer or ()),
        from_file=from_file,
        rate_hz=rate,
        paced_s=paced_seconds,
        energy=energy,
    )
    limits = FurtherSettings(roofline=roofline, profile=profile, scaling=scaling)
    settings = BenchSettings(
        contest=contest,
        budget=Budget() if budget is None else read_budget(budget),
        variants=tuple(variant or ()),
        backends=backends,
        data=data,
        split=split,
        score_limit=limit,
        peers=peers,
        checkpoint=checkpoint,
        starts=starts,
        torch_scores=torch_scores,
        throughput=throughput,
        limits=limits if roofline or profile or scaling else None,
    )
    _measure(bundle, settings, report=report, json=json, force=force)


def _measure(
    bundle: Path | None, settings: BenchSettings, *, report: Path | None, json: str | None, force: bool
) -> None:
    """Run the benchmark with progress bars, write its files, print its tables, and fail when a budget or a step did."""
    from spacecompile.benchmarks.cost.budget import budget_error
    from spacecompile.benchmarks.settings import check_settings
    from spacecompile.benchmarks.suite import run_bench
    from spacecompile.cli.show.bench import say_result
    from spacecompile.runtime.bundle import open_bundle

    check_settings(settings)
    _check_destinations(report, json, force=force, bundle=bundle or REFERENCE_BUNDLE)
    start_s = time.perf_counter()
    root = bundle or _reference_bundle()
    with console.progress_bar() as progress:
        run = run_bench(open_bundle(root), settings, progress=progress)
    json = _file_in_folder(json, run.result, force=force)
    error: SpacecompileError | None = run.failure or budget_error(run.result.budget)
    if run.result.partial and run.failure is None:
        error = InterruptedRunError(
            f"stopped; what was measured until then stands above, marked as partial{_where(report, json)}."
        )
    result = _with_error(run.result, error)
    say_result(result)
    _write(replace(run, result=result), report, json)
    console.say(f"measured in {time.perf_counter() - start_s:.0f} s" + _where(report, json))
    if error:
        error.has_document = json == "-"
        raise error
    console.say(f"next: [bold]{_next_command(root, settings, report)}[/]")


def _reference_bundle() -> Path:
    """A bundle of the committed reference checkpoint, built when there is none yet."""
    from spacecompile.benchmarks.source_checkpoint import reference_checkpoint
    from spacecompile.cli.reference_bundle import is_current

    checkpoint = reference_checkpoint()
    console.say(f"no bundle was named: taking {escape(str(REFERENCE_BUNDLE))}, built from {escape(str(checkpoint))}")
    if not is_current(REFERENCE_BUNDLE, checkpoint):
        run_in_own_process(["build", str(checkpoint), "-o", str(REFERENCE_BUNDLE), "--force"])
    return REFERENCE_BUNDLE


def _check_destinations(report: Path | None, json: str | None, *, force: bool, bundle: Path) -> None:
    """Refuse before minutes of work what could not be written after them."""
    if report is not None:
        require_extra("report", "the report")
        check_destination(report, flag="--report", force=force, bundle=bundle)
    check_results(json, force=force, bundle=bundle)
    if report is not None and json not in (None, "-") and report.resolve() == Path(json).resolve():
        raise UsageError(f"--report and --json both name {report}. Give them different files.")


def _file_in_folder(json: str | None, result: BenchResult, *, force: bool) -> str | None:
    """`--json` with the name of the results file in place of a folder's."""
    from spacecompile.benchmarks.result_file import file_of_result

    folder = results_folder(json)
    return json if folder is None else str(file_of_result(folder, result, force=force))


def _write(run: BenchRun, report: Path | None, json: str | None) -> None:
    """The JSON file first: a report that can't be made must not cost the numbers. Stdout last.

    Once stdout holds the document, nothing that fails may add another.
    """
    if json not in (None, "-"):
        console.emit_json(run.result, str(json))
    if report is not None:
        from spacecompile.benchmarks.report.page import render_report

        write_file(report, render_report(run.result, run.samples), remedy="Choose another file with --report.")
    if json == "-":
        console.emit_json(run.result, json)


def _with_error(result: BenchResult, error: SpacecompileError | None) -> BenchResult:
    """The results file, which says under the key that every failure uses why the command will fail."""
    from msgspec.structs import replace

    from spacecompile.benchmarks.result_records import Failure

    if error is None:
        return result
    return replace(result, error=Failure(kind=type(error).__name__, message=str(error), exit_code=error.exit_code))


def _where(report: Path | None, json: str | None) -> str:
    files = [str(report)] if report else []
    files += [json] if json not in (None, "-") else []
    return f"; written: {escape(', '.join(files))}" if files else ""


def _next_command(root: Path, settings: BenchSettings, report: Path | None) -> str:
    name = console.quoted(root)
    if settings.data is None:
        return f"spacecompile bench {name} --data DIR --report bench.html"
    if report is None:
        return f"spacecompile bench {name} --data {console.quoted(settings.data)} --report bench.html"
    return f"spacecompile predict {name} IMAGES -o predictions"
