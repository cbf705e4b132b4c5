"""The page, served: on this machine alone, read only, and made anew where a run's files have changed.

Bound to 127.0.0.1. A page of another site could still name this server by a name of its own that leads here (DNS
rebinding), so requests must name it by its address. Three paths are known, and none of them reaches the disk; no method
but GET and HEAD is answered.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewError, RunError, reason, shown
from manyview.report.blocks import Block, Page, Section, Text
from manyview.report.page import Shown, Wishes, find, page
from manyview.report.render import html, main_html, policy

HOST = "127.0.0.1"
PATIENCE = 10.0
"""Seconds that a client may take to ask."""


@dataclass
class Watched:
    """What is served: a page that is made again when files have changed, and the parts that need not be."""

    targets: Sequence[Path]
    wishes: Wishes
    _kept: dict[Hashable, tuple[Hashable, list[Block]]] = field(default_factory=dict)
    _pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def whole(self) -> tuple[str, bytes]:
        """(mark, HTML) of the page."""
        return self._made("whole", html)

    def part(self) -> tuple[str, bytes]:
        """(mark, HTML) of what changes of it."""
        return self._made("part", main_html)

    def _made(self, kind: str, write: Callable[[Page], str]) -> tuple[str, bytes]:
        with self._lock:  # a page is made once, however many ask
            try:
                about = find(self.targets)
                mark = _mark(about)
                known = self._pages.get(kind)
                if known is None or known[0] != mark:
                    text = write(page(about, self.wishes, True, self._keep))
                    known = self._pages[kind] = (mark, text.encode())
            except ManyviewError as error:
                said = [Section("said", "Not readable", [Text(shown(error), told=True)])]
                told = Page("manyview", "", said, True)
                known = (
                    hashlib.blake2b(str(error).encode(errors="replace"), digest_size=12).hexdigest(),
                    write(told).encode(),
                )
            return known

    def _keep(self, place: Hashable, mark: Hashable, make: Callable[[], list[Block]]) -> list[Block]:
        known = self._kept.get(place)
        if known is None or known[0] != mark:
            known = self._kept[place] = (mark, make())
        return known[1]


def _mark(about: Shown) -> str:
    """A digest of which files there are, how long they are and when they changed."""
    digest = hashlib.blake2b(digest_size=12)
    names = ("recipe.yaml", "metrics.jsonl", "result.json", "failure/failure.json")
    paths = [folder / name for folder, _, _ in about.runs for name in names] + [about.top / "compare.json"]
    for path in paths:
        try:
            state = path.stat()
            digest.update(f"{path} {state.st_mtime_ns} {state.st_size}\n".encode(errors="replace"))
        except OSError:
            continue
    return digest.hexdigest()


def serve(targets: Sequence[Path], wishes: Wishes, port: int, began: Callable[[str], None]) -> None:
    """Serves until Ctrl-C. began: is told the address. Raises RunError where the port is taken."""
    find(targets)  # what cannot be shown at all is told before anything is served
    with open_server(Watched(targets, wishes), port) as server:
        began(f"http://{HOST}:{server.server_address[1]}/")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


def open_server(watched: Watched, port: int) -> ThreadingHTTPServer:
    """The server, bound and not yet serving. Raises RunError where the port is taken."""

    class Handler(_Handler):
        watches = watched

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise RunError(f"--port {port}: {reason(error)}; name another, or 0 for one that is free") from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for `/` and `/main`."""

    watches: Watched
    timeout = PATIENCE
    server_version, sys_version = "manyview", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """What would be said of it."""
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        port = int(self.server.server_address[1])  # type: ignore[index]
        if self.headers.get_all("Host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, body)
            return
        pages = {"/": self.watches.whole, "/main": self.watches.part}
        if self.path not in pages:
            self._refuse(HTTPStatus.NOT_FOUND, body)
            return
        mark, text = pages[self.path]()
        tag = f'"{mark}"'
        known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
        self.send_header("ETag", tag)
        self._headers("text/html; charset=utf-8", 0 if known else len(text))
        if body and not known:
            self.wfile.write(text)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, such as other methods; nothing of the request is said again."""
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code), True)

    def _refuse(self, code: HTTPStatus, body: bool) -> None:
        said = f"{code.value} {code.phrase}\n".encode()
        self.close_connection = True
        self.send_response(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Connection", "close")
        self._headers("text/plain; charset=utf-8", len(said))
        if body and self.command != "HEAD":
            self.wfile.write(said)

    def _headers(self, kind: str, length: int) -> None:
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Content-Security-Policy": f"{policy(True)}; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is told of requests."""


__all__ = ["Watched", "open_server", "serve"]
