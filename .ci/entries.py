"""Docstring entries that can't be read alone: `make lint` fails on any.

An entry of Args, Attributes, Returns, Raises or Yields is a noun phrase that stands alone ("Number of threads per
operator"); one that begins with "Of", "That" or the like continues the field's name and says nothing without it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FRAGMENT = re.compile(
    r"(Of|That|Which|Whose|Whom|Likewise|By it|In it|On it|Its|Theirs|Them|For it|From it|To it|As for|As above)\b"
)
SECTION = re.compile(r"\s*(Args|Attributes|Returns|Raises|Yields):$")
ENTRY = re.compile(r"[\w*`./]+(?:, [\w*`./]+)*: (.+)$")


def fragments(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every entry that is a fragment."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        constant = node.body[0]
        assert isinstance(constant, ast.Expr)
        assert isinstance(constant.value, ast.Constant)
        section, indent = "", 0
        for offset, line in enumerate(str(constant.value.value).splitlines()):
            text, depth = line.strip(), len(line) - len(line.lstrip())
            if found := SECTION.match(line):
                section, indent = found[1], depth
            elif text and depth <= indent:
                section = ""
            elif section and depth == indent + 4:
                entry = ENTRY.match(text)
                said = entry[1] if entry else text
                if FRAGMENT.match(said):
                    yield constant.lineno + offset, text


def main(folders: list[str]) -> int:
    """Print every fragment below the folders; 1 if there is one."""
    found = [
        f"{path}:{line}: {text}"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for line, text in fragments(path)
    ]
    print("\n".join(found))  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
