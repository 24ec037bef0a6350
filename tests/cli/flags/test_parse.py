from __future__ import annotations

import pytest

from spacecompile.cli.flags.parse import names_from_text
from spacecompile.errors import UsageError


def test_names_lose_the_spaces_around_them() -> None:
    assert names_from_text(" a, b b ,c", "--names") == ("a", "b b", "c")


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a,,b", "empty name"), ("a,", "empty name"), (" ", "empty name"), ("a, b,a", "--names names a twice")],
)
def test_an_empty_or_repeated_name_is_refused(text: str, seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        names_from_text(text, "--names")


def test_a_caller_without_a_flag_judges_the_names_itself() -> None:
    assert names_from_text("a,,a") == ("a", "", "a")
