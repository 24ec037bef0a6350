"""Reading the values of flags that several commands share."""

from __future__ import annotations

from spacecompile.errors import UsageError


def size_px_from_text(text: str, flag: str) -> tuple[int, int]:
    """(height, width) from `SIDE` or `HEIGHTxWIDTH`.

    Raises:
        UsageError: If the text is neither.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise UsageError(f"{flag} is {text!r}; give SIDE or HEIGHTxWIDTH in pixels, for example 512 or 1024x1024.")
    return int(sides[0]), int(sides[-1])


def channels_from_text(text: str, flag: str) -> tuple[float, float, float]:
    """Three numbers from `r,g,b`.

    Raises:
        UsageError: If the text isn't three numbers.
    """
    try:
        red, green, blue = (float(value) for value in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} is {text!r}; give three numbers r,g,b, for example 0.27,0.26,0.28.") from error
    return red, green, blue


def names_from_text(text: str, flag: str | None = None) -> tuple[str, ...]:
    """Names from a list with commas, spaces around each dropped.

    Args:
        text: List as typed.
        flag: Flag that the list was typed for; without one the caller judges the names.

    Raises:
        UsageError: If there is a flag, and a name is empty or comes twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if flag and not all(names):
        raise UsageError(f"{flag} is {text!r}, with an empty name in it. Give names with one comma between them.")
    if flag and (twice := next((name for name in names if names.count(name) > 1), None)):
        raise UsageError(f"{flag} names {twice} twice. Name each once.")
    return names
