from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from spacecompile.cli.flags.shared import with_shared


@dataclass(frozen=True, kw_only=True)
class Common:
    data: Annotated[str, typer.Option("--data")]
    number: Annotated[int, typer.Option(help="Number of something.")] = 3


def test_a_command_gets_its_own_options_and_the_record_of_the_shared_ones() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @with_shared(Common)
    def measure(ctx: typer.Context, *, own: str = "mine", shared: Common) -> None:
        """Measure something."""
        seen.append((ctx.command.name, own, shared))

    runner = CliRunner()
    assert runner.invoke(app, ["--data", "frames", "--number", "4"]).exit_code == 0
    assert seen == [("measure", "mine", Common(data="frames", number=4))]
    assert runner.invoke(app, ["--own", "yours"]).exit_code == 2
    shown = runner.invoke(app, ["--help"]).output
    assert "Measure something." in shown
    assert "Number of something." in shown
    assert "--shared" not in shown
