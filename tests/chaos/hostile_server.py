"""A gateway that means ill: what it answers stands in a table, by the word that the request's text names."""

from __future__ import annotations

import gzip
import json
import re
import socketserver
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Any

CASE = re.compile(rb"case ([a-z_0-9]+)")


def answer(text: str = "yes", **usage: Any) -> bytes:
    """A whole chat reply."""
    counts = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **usage}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"id": "r", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counts}
    ).encode()


def raw(text: str) -> bytes:
    """A reply whose text is these bytes of JSON, whatever they are."""
    return answer("TEXT").replace(b'"TEXT"', text.encode("latin-1"))


BOMB = gzip.compress(b" " * (80 * 2**20), 9)
JSON = {"Content-Type": "application/json"}
REPLIES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "right": (200, JSON, answer()),
    "html_type": (200, {"Content-Type": "text/html"}, answer()),
    "no_type": (200, {}, answer()),
    "gzip_bomb": (200, {**JSON, "Content-Encoding": "gzip"}, BOMB),
    "broken_gzip": (200, {**JSON, "Content-Encoding": "gzip"}, BOMB[: len(BOMB) // 2]),
    "deep_json": (200, JSON, b"[" * 100_000 + b"]" * 100_000),
    "deep_object": (200, JSON, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "bad_utf8": (200, JSON, raw('"\xff\xfe"')),
    "lone_surrogate": (200, JSON, raw('"\\ud800"')),
    "nul": (200, JSON, raw('"a\\u0000b"')),
    "huge_count": (200, JSON, answer(prompt_tokens=10**30)),
    "huge_digits": (200, JSON, answer().replace(b'"prompt_tokens": 7', b'"prompt_tokens": ' + b"9" * 5000)),
    "negative_count": (200, JSON, answer(prompt_tokens=-7)),
    "nan_count": (200, JSON, answer().replace(b'"prompt_tokens": 7', b'"prompt_tokens": NaN')),
    "fraction_count": (200, JSON, answer(prompt_tokens=1.5)),
    "text_is_a_list": (200, JSON, raw("[1, 2]")),
    "text_is_a_number": (200, JSON, raw("12")),
    "no_choices": (200, JSON, b'{"id": "r", "choices": []}'),
    "null": (200, JSON, b"null"),
    "empty": (200, JSON, b""),
    "no_content": (204, {}, b""),
    "html_page": (200, {"Content-Type": "text/html"}, b"<html>captive portal</html>"),
    "error_in_200": (200, JSON, b'{"error": {"message": "overloaded", "type": "server_error", "code": 502}}'),
    "crun_error_in_200": (200, JSON, b'{"code": 500, "message": "failed", "data": null}'),
    "redirect": (302, {"Location": "/api/v1/elsewhere"}, b""),
    "redirect_post": (307, {"Location": "/api/v1/elsewhere"}, b""),
    "redirect_forever": (308, {"Location": "/api/v1/chat/completions"}, b""),
    "html_error": (500, {"Content-Type": "text/html"}, b"<h1>oops</h1>" * 1000),
    "deep_error": (400, JSON, b"[" * 100_000 + b"]" * 100_000),
    "formula": (200, JSON, answer("=HYPERLINK(1)")),
}


STREAMS: dict[str, bytes] = {
    "no_event": b"hello\n\n" * 1000,
    "not_json": b"data: {oops\n\ndata: [DONE]\n\n",
    "deep_event": b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n\ndata: [DONE]\n\n",
    "null_event": b"data: null\n\ndata: 12\n\ndata: []\n\ndata: [DONE]\n\n",
    "choices_of_no_kind": b'data: {"choices": [null, 1, {"delta": 2}]}\n\ndata: [DONE]\n\n',
    "one_endless_line": b"data: " + b"x" * (2 * 2**20),
    "many_events": b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n' * 20_000,
    "only_comments": b": keep alive\n\n" * 10_000,
    "bad_utf8_event": b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}}]}\n\ndata: [DONE]\n\n',
    "huge_index": b'data: {"choices": [{"index": 999999999999, "delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n',
    "huge_tool_index": b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 999999999}]}}]}\n\n',
    "error_event": b'data: {"error": {"message": "overloaded", "code": 502}}\n\ndata: [DONE]\n\n',
}
"""Streams that mean ill, by the same words."""
RIGHT: dict[str, dict[str, Any]] = {
    "chat": {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
    },
    "completions": {"choices": [{"index": 0, "text": "yes", "finish_reason": "stop"}]},
    "responses": {
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}],
    },
    "messages": {"type": "message", "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn"},
}
"""What each protocol takes, and all others must survive."""
REPLIES |= {f"right_{name}": (200, JSON, json.dumps(body).encode()) for name, body in RIGHT.items()}
REPLIES |= {name: (200, {"Content-Type": "text/event-stream"}, body) for name, body in STREAMS.items()}
PATHS = tuple(f"/api/v1{path}" for path in ("/chat/completions", "/completions", "/responses", "/messages"))


class HostileGateway:
    """`with HostileGateway() as gateway`: gateway.base_url; `posts` counts requests by case and by other paths."""

    def __init__(self, echo_key: bool = False) -> None:
        gateway = self
        self.posts: Counter[str] = Counter()
        self.gets = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gateway.gets += 1
                self._send(404, JSON, b'{"error": {"message": "no such call"}}')

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                found = CASE.search(body)
                name = found[1].decode() if found and self.path in PATHS else self.path
                gateway.posts[name] += 1
                if echo_key:
                    self._send(400, JSON, gateway.echo(dict(self.headers), name))
                else:
                    self._send(*REPLIES.get(name, (404, JSON, b"{}")))

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for header, value in headers.items():
                    self.send_header(header, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silence."""

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that hangs up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/api/v1"

    def echo(self, headers: dict[str, str], name: str) -> bytes:
        """An error that shows the request's own headers, in several encodings."""
        raise NotImplementedError

    def __enter__(self) -> HostileGateway:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
