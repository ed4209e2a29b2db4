"""A gateway on loopback that says what a test wants it to say: one function from request to answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = Callable[[Mapping[str, Any]], tuple[int, str | Mapping[str, Any]]]
"""From the fields of a request to the status and what is said: an answer's text, a refusal's words, a body."""


@contextmanager
def gateway(said: Said) -> Iterator[str]:
    """The base URL, as long as the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, text = said(asked)
            if isinstance(text, str):
                text = _answered(text, asked["model"]) if status == 200 else {"error": {"message": text}}
            self._answer(status, text)

        def do_GET(self) -> None:
            self._answer(404, {"error": {"message": "nothing here"}})

        def _answer(self, status: int, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _answered(text: str, model: str) -> dict[str, Any]:
    return {
        "id": "said",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
