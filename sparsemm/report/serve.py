"""``sparsemm report RESULTS --serve``: the page on this machine alone, made anew while a sweep runs."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError
from sparsemm.evaluation.status import read_status
from sparsemm.report.folder import TABLES, read_results
from sparsemm.report.page import PageOptions, build_page

HOST = "127.0.0.1"
PORT = 8765
POLL_S = 2.0
"""How often the folder is looked at."""

PATIENCE_S = 10.0
"""How long a client may take for a request and its answer."""

CLIENTS = 32
"""So many are answered at a time."""

REST = 10
"""After a page is made, so many times as long no other is: the sweep needs the machine."""


class Live:
    """The newest page of a folder, and what the sweep is doing; both change while other threads read them.

    Parameters
    ----------
    folder : Path
    options : PageOptions
    """

    def __init__(self, folder: Path, options: PageOptions) -> None:
        self.folder, self.options = folder, options
        self.version = self.status = ""
        self.page = b""

        self.rest_until = 0.0

    def refresh(self) -> None:
        """Look at the folder; make the page again if its files have changed and the last one is old enough.

        Raises
        ------
        ValueError, OSError
            The results cannot be read.
        """
        version, self.status = version_of(self.folder), status_line(self.folder)
        started = time.monotonic()
        if version == self.version or started < self.rest_until:
            return
        told, self.status = self.status, f"{self.status} A newer page is being made."
        results = read_results(self.folder, may_be_empty=True)
        self.page = build_page(results, self.options, version=version).encode("utf-8")
        self.version, self.status = version, told
        ended = time.monotonic()
        self.rest_until = ended + REST * (ended - started)

    def follow(self, ended: threading.Event) -> None:
        """Refresh until `ended`; what cannot be read now is said in the page, and read again."""
        while not ended.wait(POLL_S):
            try:
                self.refresh()
            except Exception as error:  # a thread that ends would leave an old page that looks alive
                unexpected = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
                self.status = f"The results cannot be read now: {' '.join(f'{unexpected}{error}'.split())}"


def version_of(folder: Path) -> str:
    """A hash of names, sizes and times of the files that the report is made of."""
    digest = hashlib.sha256()
    for path in (
        *(folder / name for name in (*TABLES, "run.json")),
        *sorted((folder / "cells").glob("*.json")),
    ):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def status_line(folder: Path) -> str:
    """How far the sweep is, in one line."""
    try:
        status = read_status(folder)
    except InputError:
        there = (folder / "cells.csv").is_file()
        return "Only tables of a finished sweep are here." if there else "No sweep has begun here."
    done = sum(cell.finished for cell in status.cells)
    left = sum(cell.documents - cell.answered - cell.failed for cell in status.cells if not cell.finished)
    parts = [f"{done} of {len(status.cells)} cells are finished"]
    if left:
        parts.append(f"{left:,} responses are missing")
    if status.failures:
        parts.append(f"{len(status.failures)} documents failed")
    if not status.writers:
        parts.append("no sweep is running")
    elif status.speed is not None and left:
        parts.append(f"about {left / status.speed.responses:.0f} min left")
    return "; ".join([*parts, *status.notices]) + "."


class Server(ThreadingHTTPServer):
    """Serves one `Live` page."""

    daemon_threads = True

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        self._open: dict[Any, float] = {}  # connection -> when it came
        super().__init__((HOST, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; what comes while `CLIENTS` are being answered is closed at once."""
        if len(self._open) >= CLIENTS:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, whoever does it."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who has taken too long, also byte by byte; twice a second, while serving."""
        now = time.monotonic()
        for request, since in dict(self._open).items():
            if now - since > PATIENCE_S:
                with suppress(OSError):  # its own thread may be closing it
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone; anything else is a fault of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Two addresses: the page, and which version of it there is."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version = "sparsemm"

    def do_GET(self) -> None:
        """Answer; other host names than this machine's are refused, so that no web page can read along."""
        live, host = self.server.live, self.headers.get("Host", "")
        if host.rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
        elif self.path == "/":
            self._give(live.page, "text/html; charset=utf-8")
        elif self.path == "/version":
            news = {"version": live.version, "status": live.status}
            self._give(json.dumps(news).encode(), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _give(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page asks every two seconds."""


def serve(folder: Path, options: PageOptions, *, port: int = PORT) -> None:
    """Serve the report of a folder until Ctrl-C.

    Parameters
    ----------
    folder : Path
        ``results/<experiment>``, of a finished or a running sweep.
    options : PageOptions
    port : int, default 8765
        0 takes any that is free.

    Raises
    ------
    InputError
        No such folder, or the port is taken.
    ValueError, OSError
        The results cannot be read at the start.
    """
    live = Live(folder, options)
    live.refresh()
    try:
        server = Server(live, port)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used ({error.strerror}); name another with --port"
        ) from error
    ended = threading.Event()
    threading.Thread(target=live.follow, args=(ended,), daemon=True).start()
    print(f"http://{HOST}:{server.server_address[1]}/ shows {folder}; Ctrl-C ends", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        ended.set()
        server.server_close()
