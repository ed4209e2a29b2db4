"""What the tests of the simulator share: requests to a gateway without a socket, and raw connections."""

from __future__ import annotations

import json
import socket
from decimal import Decimal
from typing import Any

from crun_batch.simulator import SimulatorProcess, read_settings
from crun_batch.simulator.connection import ReceivedRequest
from crun_batch.simulator.gateway import SimulatedGateway

QUESTION = "How many eggs do sixteen ducks lay in a week?"
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "model": "gpt-5.4",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 500,
    },
    "/responses": {"model": "gpt-5.4", "input": QUESTION, "max_output_tokens": 500},
    "/messages": {"model": "gpt-5.4", "max_tokens": 500, "messages": [{"role": "user", "content": QUESTION}]},
    "/completions": {"model": "gpt-5.4", "prompt": QUESTION, "max_tokens": 500},
}
CHAT = "/chat/completions"
HEAD = b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-API-KEY: ak_sim\r\n"
KEY = {"authorization": "Bearer ak_sim_test"}


def gateway(**changes: Any) -> SimulatedGateway:
    return SimulatedGateway(read_settings({"tokenizer": "words", **changes}))


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-5.4", "messages": [{"role": "user", "content": text}], **fields}


def parsed(reply: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, body


def send(
    at: SimulatedGateway, path: str, body: Any = None, headers: dict[str, str] = KEY
) -> tuple[int, dict[str, str], Any]:
    """One request to a gateway without a socket; the reply's JSON, or the text of its stream."""
    method = "GET" if body is None else "POST"
    raw = b"" if body is None else json.dumps(body).encode()
    delivery = at.handle(ReceivedRequest(method, f"/api/v1{path}", "", headers, raw))
    status, answered, content = parsed(b"".join(data for _, data in delivery.steps))
    if delivery.finished is not None:
        delivery.finished()
    if answered["content-type"].startswith("text/event-stream"):
        return status, answered, unchunked(content).decode()
    return status, answered, json.loads(content, parse_float=Decimal)


def unchunked(content: bytes) -> bytes:
    body = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        body, content = body + content[: int(size, 16)], content[int(size, 16) + 2 :]
    return body


def text_of(path: str, reply: dict[str, Any]) -> str:
    match path:
        case "/chat/completions":
            return str(reply["choices"][0]["message"]["content"])
        case "/responses":
            return str(reply["output"][0]["content"][0]["text"])
        case "/messages":
            return str(reply["content"][0]["text"])
    return str(reply["choices"][0]["text"])


class Wire:
    """A raw connection to a simulator."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        host, port = simulator.base_url.removeprefix("http://").split("/")[0].split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=5)

    def post(self, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.socket.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)

    def rest(self) -> bytes:
        """All bytes until the other side ends the connection."""
        found = b""
        while data := self.socket.recv(65536):
            found += data
        return found

    def reply(self) -> tuple[int, dict[str, str], bytes]:
        """One reply with a content-length."""
        found = b""
        while b"\r\n\r\n" not in found:
            found += self.socket.recv(1)
        status, headers, _ = parsed(found)
        body = b""
        while len(body) < int(headers["content-length"]):
            body += self.socket.recv(int(headers["content-length"]) - len(body))
        return status, headers, body

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
