"""`spacecompile build --dry-run`: the steps and the files, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile.cli import console
from spacecompile.record import printable

if TYPE_CHECKING:
    from spacecompile.export.plan import BuildPlan


def say_dry_run(plan: BuildPlan, *, json: str | None) -> None:
    """List what the build would do. Nothing is written but the JSON file that was asked for.

    Args:
        plan: Checked plan of a build.
        json: File for the same facts as JSON, or `-` for stdout, which then holds nothing else.
    """
    from spacecompile.export.dry_run import dry_run

    facts = dry_run(plan)
    if json != "-":
        lines = ["steps"]
        lines += [f"  {number:>2} {step.name:<20} {step.does}" for number, step in enumerate(facts.steps, start=1)]
        lines += [f"files of {facts.output}", *(f"  {file.path:<34} {file.kind}" for file in facts.files)]
        console.print_result(printable("\n".join(lines)) + "\n")
    console.say("dry run: nothing was written")
    if json is not None:
        console.emit_json({"dry_run": facts}, json)
