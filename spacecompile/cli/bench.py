"""`spacecompile bench`: budgets, score and latency of a bundle against its peers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.cli.compare import compare_results
from spacecompile.cli.flags.bench import BenchFlags, bench_settings, latency_settings
from spacecompile.cli.flags.json_destination import check_results, results_folder
from spacecompile.cli.own_process import run_in_own_process
from spacecompile.errors import InterruptedRunError, SpacecompileError, UsageError
from spacecompile.extras import require_extra
from spacecompile.files import check_destination, write_file

if TYPE_CHECKING:
    from spacecompile.benchmarks.result_records import BenchResult
    from spacecompile.benchmarks.settings import BenchSettings
    from spacecompile.benchmarks.suite import BenchRun

REFERENCE_BUNDLE = Path("runs") / "reference.spacepkg"


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle that `build` made. [default: one of the reference checkpoint]")
    ] = None,
    *,
    data: Annotated[
        Path | None, typer.Option(help="Labelled frames in the SPARK format: adds the scores, and times these.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data.")] = "val",
    limit: Annotated[int | None, typer.Option(help="Frames to score; all if not given.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    backend: Annotated[
        str,
        typer.Option(help="Engine of the variants: auto, all that are certified, or names with commas."),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Of every contestant on the CPU; the usable cores if not given.")
    ] = None,
    spinning: Annotated[
        bool, typer.Option("--spinning/--no-spinning", help="Idle threads of the variants wait busily.")
    ] = True,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure PyTorch and plain exports too, and count its stages.")
    ] = True,
    peer: Annotated[list[str] | None, typer.Option(help="Only this peer; may be repeated.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Source of the bundle: for peers, stages, PyTorch's scores, --scaling.")
    ] = None,
    duration: Annotated[float, typer.Option(help="Seconds of the latency run at least; see --samples too.")] = 60.0,
    samples: Annotated[
        int, typer.Option(help="Samples of each at least, a quarter of it with views; p90 needs 64, p99 662.")
    ] = 64,
    warmup: Annotated[int, typer.Option(help="Rounds before, at least.")] = 3,
    warmup_seconds: Annotated[float, typer.Option(help="Seconds before, at least.")] = 2.0,
    rate: Annotated[float | None, typer.Option(help="Hand over frames at so many Hz too; counts misses.")] = None,
    paced_seconds: Annotated[float, typer.Option(help="With --rate: how long.")] = 10.0,
    starts: Annotated[int, typer.Option(help="Processes per variant for load time and memory; 0 for none.")] = 3,
    from_file: Annotated[bool, typer.Option("--from-file/--no-from-file", help="Time image files too.")] = True,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Frames per second of sessions side by side.")
    ] = False,
    energy: Annotated[bool, typer.Option("--energy/--no-energy", help="Read RAPL and NVML where they are.")] = True,
    torch_scores: Annotated[
        bool, typer.Option("--torch-scores/--no-torch-scores", help="With --data: PyTorch's scores beside.")
    ] = True,
    percentiles: Annotated[str, typer.Option(help="To print, for example 50,90,99,99.9.")] = "50,90,99",
    budget: Annotated[
        Path | None,
        typer.Option(help="TOML file with limits, gmacs_max = 5 for example; the benchmark's if not given."),
    ] = None,
    roofline: Annotated[
        bool, typer.Option("--roofline/--no-roofline", help="Measure the machine's limits, and the share reached.")
    ] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time every layer in its engine; measures the limits too.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Build other sizes, batches and threads, and measure them.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Measure nothing: compare two results files, the old one first.")
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="With --compare: exit with 6 when something got worse by this, such as 5%.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write one offline HTML file.")] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", help="Write the result to FILE, - for stdout; a measurement's also into a folder, under its name."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report and the JSON file.")] = False,
    device: Annotated[str, typer.Option(help="cpu; cuda or cuda:N with --prove.")] = "cpu",
    prove: Annotated[bool, typer.Option("--prove", help="Show on a GPU all that is promised of it.")] = False,
) -> None:
    """Measure a bundle: budgets, score, and latency against PyTorch and a plain export on the same frames.

    Exits with 6 when a budget is exceeded or can't be judged, after everything is written. Interrupted, it writes what
    it has, marked as partial. With --compare it measures nothing and reads two results files instead.

    Example: spacecompile bench net.spacepkg --data frames --report bench.html --json bench.json
    """
    run_bench_command(BenchFlags(**locals()))


def run_bench_command(flags: BenchFlags) -> None:
    """What `bench` does: compare two files, prove a GPU, or measure a bundle."""
    from spacecompile.cli.prove import device_index, prove_bundle

    if flags.compare is not None or flags.fail_on is not None:
        compare_results(flags.compare, flags.fail_on, json=flags.json, force=flags.force)
        return
    gpu_index = device_index(flags.device, prove=flags.prove)
    if gpu_index is not None:
        prove_bundle(
            flags.bundle,
            index=gpu_index,
            data=flags.data,
            checkpoint=flags.checkpoint,
            latency=latency_settings(flags),
            json=flags.json,
            force=flags.force,
        )
        return
    require_extra("bench", "bench")
    bench_bundle(
        flags.bundle,
        bench_settings(flags),
        report=flags.report,
        json=flags.json,
        force=flags.force,
    )


def bench_bundle(
    bundle: Path | None,
    settings: BenchSettings,
    *,
    report: Path | None,
    json: str | None,
    force: bool = False,
) -> BenchResult:
    """Run the benchmark with progress bars, write its files and print its tables; `demo` shares it.

    Args:
        bundle: To measure; None for a bundle of the reference checkpoint.
        settings: What and how.
        report: HTML file to write, if any.
        json: JSON file to write, if any, or `-`; in a folder it is named after model, device and day.
        force: Replace files that are there.

    Raises:
        BudgetError: If a limit is exceeded, after everything was written.
        InterruptedRunError: After an interrupt, once the partial result was written.
        SpacecompileError: That of a step after the latency run that failed, once the partial result was written.
    """
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
    return result


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
