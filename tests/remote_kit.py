"""Servers that tests of remote tables start themselves: files over https, PostgreSQL, S3. On 127.0.0.1 alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import trustme


class FileServer(ThreadingHTTPServer):
    """Files by path, with ETags and ranges, under TLS; `seen` are the requests, `breaks` what goes wrong."""

    daemon_threads = True

    def __init__(self, ca_file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _FileHandler)
        self.files: dict[str, bytes] = {}
        self.replies: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.cut_after: list[int] = []
        """Of the next replies, how many bytes of each are sent before the connection breaks."""
        self.statuses: list[int] = []
        """Of the next replies, a status in the place of a file."""
        self.change: Callable[[], None] = lambda: None
        """Called after a reply that was cut."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        authority.cert_pem.write_to_path(str(ca_file))
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that does not trust, or goes away, is no error of the test."""


class _FileHandler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if server.statuses:
            self._send(server.statuses.pop(0), {}, b"")
        elif self.path in server.replies:
            self._send(*server.replies[self.path])
        elif path not in server.files:
            self._send(404, {}, b"")
        else:
            self._send_file(server.files[path])

    def _send_file(self, data: bytes) -> None:
        etag = f'"{sha256(data).hexdigest()[:16]}"'
        headers, status, wanted = {"ETag": etag}, 200, self.headers.get("Range")
        if wanted is not None and self.headers.get("If-Range") == etag:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, headers["Content-Range"] = 206, f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        self._send(status, headers, data)

    def _send(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cut_after and status in (200, 206):
            self.wfile.write(data[: self.server.cut_after.pop(0)])
            self.wfile.flush()
            self.server.change()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)


@contextmanager
def file_server(ca_file: Path) -> Iterator[FileServer]:
    server = FileServer(ca_file)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


POSTGRES_USER = "nobody"
"""Who runs the server where the tests run as root, which PostgreSQL refuses."""


def has_postgres() -> bool:
    return shutil.which("initdb") is not None and shutil.which("postgres") is not None


@contextmanager
def postgres() -> Iterator[str]:
    """A database server of our own on a Unix socket alone; its `postgresql://` address."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, POSTGRES_USER)
        other = {"user": POSTGRES_USER}
    environ = {**os.environ, "LC_ALL": "C", "PGUSER": POSTGRES_USER if other else ""}
    data = folder / "data"
    made = ["initdb", "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, env=environ, **other)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["postgres", "-D", str(data), *options], stdout=log, stderr=log, cwd=folder, env=environ, **other
        )
    try:
        yield _ready(server, folder)
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AssertionError((folder / "log").read_text())
        if b"ready to accept connections" in (folder / "log").read_bytes():
            return f"postgresql://tester@/postgres?host={folder}"
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not start")


def json_reply(value: Any, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    return 200, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()
