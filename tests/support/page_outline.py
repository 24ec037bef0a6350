"""The skeleton of a benchmark page: ids, text, addresses and table rows."""

from __future__ import annotations

from html.parser import HTMLParser


class Outline(HTMLParser):
    """Ids, text and addresses of a page; fails on a tag that is not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.scripts = 0
        self.rows: dict[str, list[list[str]]] = {}
        self._section = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.addresses.append(str(value))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open[-4:]):
            self.rows[self._section][-1][-1] = f"{self.rows[self._section][-1][-1]} {data}".strip()
        if data.strip():
            self.text.append(" ".join(data.split()))

    def close(self) -> None:
        super().close()
        assert not self._open


def outline_of(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    outline.close()
    return outline


def row_of(page: str, section: str, *starts: str) -> list[str]:
    """The first row of a section's tables that begins with these cells."""
    rows = outline_of(page).rows[section]
    return next(row for row in rows if row[: len(starts)] == list(starts))
