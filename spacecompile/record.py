"""The base of every record that is stored as JSON."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


# For type checkers: msgspec does hand `frozen` down to subclasses, but leaves `kw_only` to each of them.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record that is stored as JSON: immutable, keyword-only, strict when read."""


def json_from_record(record: msgspec.Struct) -> bytes:
    """JSON for people to read and compare: indented, and the same bytes for the same content."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=2) + b"\n"
