"""The base of every record that is stored as JSON."""

from __future__ import annotations

from typing import Any, dataclass_transform

import msgspec


# For type checkers: msgspec does hand `frozen` down to subclasses, but leaves `kw_only` to each of them.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record that is stored as JSON: immutable, keyword-only, strict when read."""


def json_from_record(record: msgspec.Struct) -> bytes:
    """JSON for people to read and compare: indented, and the same bytes for the same content."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=2) + b"\n"


def printable(text: str) -> str:
    """The text with bytes of a file name that are no UTF-8 as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def json_bytes(value: Any) -> bytes:
    """A JSON document, indented, UTF-8; bytes of a file name that are no UTF-8 appear as backslash escapes."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(value)))
    return msgspec.json.format(encoded, indent=2) + b"\n"


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value
