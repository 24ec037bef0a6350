from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from spacecompile.cli.flags.command_line import is_given, typed_command


def seen_of(*arguments: str) -> tuple[str, bool]:
    """The command that a small command line rebuilds, and whether its number was typed."""
    app, seen = typer.Typer(), []

    @app.callback()
    def group() -> None:
        pass

    @app.command()
    def measure(
        ctx: typer.Context,
        *,
        output: Annotated[str, typer.Option("-o", "--output")] = "out",
        number: int = 3,
        fast: Annotated[bool, typer.Option("--fast/--no-fast")] = True,
        force: Annotated[bool, typer.Option("--force")] = False,
    ) -> None:
        seen.append((typed_command(ctx, "group"), is_given(ctx, "number")))

    result = CliRunner().invoke(app, ["measure", *arguments])
    assert result.exit_code == 0, result.output
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "command", "has_number"),
    [
        pytest.param([], "", False, id="nothing"),
        pytest.param(["--number", "3"], " --number 3", True, id="a default that was typed"),
        pytest.param(["--no-fast"], " --no-fast", False, id="switched off"),
        pytest.param(["--output", "my frames"], " -o 'my frames'", False, id="a name to quote"),
        pytest.param(["--force", "--fast"], " --fast", False, id="without what concerns this call"),
    ],
)
def test_a_command_is_rebuilt_from_what_was_typed(arguments: list[str], command: str, has_number: bool) -> None:
    assert seen_of(*arguments) == (f"spacecompile group measure{command}", has_number)
