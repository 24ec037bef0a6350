"""What the user typed, told from what flags mean when they are left out."""

from __future__ import annotations

import shlex

import typer

OF_ONE_CALL = ("resume", "force", "json")
"""Flags that say nothing about what is made."""


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether a parameter was typed."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"  # by name: newer typer carries a click of its own


def typed_flags(ctx: typer.Context) -> list[str]:
    """Names of the parameters that were typed, in the order of the command's help."""
    return [parameter.name for parameter in ctx.command.params if parameter.name and is_given(ctx, parameter.name)]


def typed_command(ctx: typer.Context, *group: str) -> str:
    """The command as typed, without what only concerns this call.

    Rebuilt from what was given: also right when called from Python.

    Args:
        ctx: Context of the command.
        group: Names of the groups that the command is in.
    """
    words = ["spacecompile", *group, ctx.command.name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if not is_given(ctx, name) or name in OF_ONE_CALL:
            continue
        value = ctx.params.get(name)
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)
