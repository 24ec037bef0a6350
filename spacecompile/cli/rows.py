"""Lines of a listing on stdout: a title, then text."""

from __future__ import annotations


def row(title: str, text: str) -> str:
    """One line; an empty title continues the one above."""
    return f"{title:<10} {text}"
