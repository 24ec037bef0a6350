"""Writes docs/cli.md from the commands themselves; `--check` fails when it is not current."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

from spacecompile.cli.main import app

PAGE = Path("docs/cli.md")
HEAD = """# Commands

Written from the commands by `make docs`. `--json FILE|-` is on every command that has a result; with `-` stdout holds
JSON only, on failure too. What is there is replaced only with `--force`; what can be refused is refused first.
Exit codes are in [Troubleshooting](troubleshooting.md).
"""


def plain(text: str | None) -> str:
    """Help text on one line, safe in a table."""
    return re.sub(r"\s+", " ", (text or "").replace("|", "\\|").replace("<", "&lt;")).strip()


def described(option: Any) -> str:
    """Help of an option, with its choices and default."""
    words = [plain(option.help)]
    annotation = option.type_descriptor.annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    if choices:
        words.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
    default = option.default
    shown = default is not None and default is not False and not callable(default) and default not in ((), [], "")
    if shown and "default:" not in words[0]:
        words.append("On by default." if default is True else f"Default `{default}`.")
    return " ".join(word for word in words if word)


def section(name: str, command: Any, depth: int) -> Iterator[str]:
    """One command: usage, what it does, its options by group."""
    yield f"{'#' * depth} {name}\n"
    yield plain((command.help or "").split("Example:")[0]) + "\n"
    if example := re.search(r"Example: (.*)", command.help or "", flags=re.S):
        yield f"    {plain(example[1])}\n"
    if getattr(command, "commands", None):
        for child_name, child in sorted(command.commands.items()):
            yield from section(f"{name} {child_name}", child, depth + 1)
        return
    shown = [option for option in command.params if not getattr(option, "hidden", False) and option.name != "help"]
    groups: dict[str, list[Any]] = {}
    for option in shown:
        panel = getattr(option, "rich_help_panel", None)
        groups.setdefault(panel or "", []).append(option)
    for panel, options in groups.items():
        title = panel or "argument or option"
        yield f"| {title} | |\n|---|---|"
        for option in options:
            is_flag = option.param_type_name == "option"
            names = ", ".join(f"`{it}`" for it in (*option.opts, *option.secondary_opts))
            names = names if is_flag else f"`{(option.metavar or option.name).upper()}`"
            yield f"| {names} | {described(option)} |"
        yield ""


def page() -> str:
    """The whole page."""
    command: Any = get_command(app)
    lines = [HEAD]
    for name, child in sorted(command.commands.items()):
        lines += section(name, child, 2)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    if "--check" in arguments:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
