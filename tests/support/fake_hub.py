"""A Hugging Face hub on this machine, for its own client and for what is built on it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Data sets and models by name, each a folder; `gated` ones answer 403 as the hub does."""

    datasets: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    endpoint: str = ""
    downloads: list[str] = field(default_factory=list)

    def answer(self, path: str, *, head: bool) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        words = unquote(urlsplit(path).path).strip("/").split("/")
        if words[:2] == ["api", "datasets"]:
            return self._facts("/".join(words[2:4]), words[4:])
        if words[:1] == ["datasets"] and words[3:4] == ["resolve"]:
            return self._file("/".join(words[1:3]), "/".join(words[5:]), head=head)
        if words[2:3] == ["resolve"]:
            return self._file("/".join(words[:2]), "/".join(words[4:]), head=head)
        return 404, {}, b""

    @property
    def _folders(self) -> dict[str, Path]:
        return self.datasets | self.models

    def _refusal(self, name: str) -> tuple[int, dict[str, str], bytes] | None:
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept the terms"}, b""
        return None if name in self._folders else (401, {"X-Error-Code": "RepoNotFound"}, b"")

    def _facts(self, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if refusal := self._refusal(name):
            return refusal
        root = self._folders[name]
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            content: Any = [self._entry(root, path) for path in paths]
        else:
            siblings = [{"rfilename": path.relative_to(root).as_posix()} for path in paths]
            content = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _entry(self, root: Path, path: Path) -> dict[str, Any]:
        name = path.relative_to(root).as_posix()
        return {"type": "file", "path": name, "oid": _etag(path), "size": path.stat().st_size}

    def _file(self, name: str, relative: str, *, head: bool) -> tuple[int, dict[str, str], bytes]:
        if refusal := self._refusal(name):
            return refusal
        path = self._folders[name] / relative
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if not head:
            self.downloads.append(relative)
        return 200, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}, path.read_bytes()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(fake: FakeHub) -> Iterator[FakeHub]:
    """The hub under its own address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(head=False)

        def do_HEAD(self) -> None:
            self._reply(head=True)

        def _reply(self, *, head: bool) -> None:
            status, headers, body = fake.answer(self.path, head=head)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
