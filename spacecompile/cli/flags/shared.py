"""Options that several commands have in common, declared once as the fields of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def with_shared(record: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a record, and the record as its argument `shared`.

    Args:
        record: Dataclass whose fields are annotated as a command's parameters are. Its module must import at run time
            what the annotations name, since typer evaluates them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            command(shared=record(**{field.name: given.pop(field.name) for field in fields(record)}), **given)

        own = [it for it in signature(command, eval_str=True).parameters.values() if it.name != "shared"]
        common = signature(record, eval_str=True).parameters.values()
        # Required ones first, as typer lists them; every one is passed by name.
        joined = sorted((*own, *common), key=lambda it: (it.name != "ctx", it.default is not Parameter.empty))
        run.__signature__ = Signature(  # type: ignore[attr-defined]
            [it.replace(kind=Parameter.KEYWORD_ONLY) for it in joined]
        )
        return run

    return decorate
