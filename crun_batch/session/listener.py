"""The session's end of the socket through which people steer it: one question after the other, each answered.

What is done is on disk, with the time and by whom, before it is confirmed. Who is not this user, nor root, gets a
refusal; who says nothing or nonsense, or goes away, disturbs nobody but himself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from msgspec import structs

from crun_batch.console.words import one_line
from crun_batch.errors import EXIT_INPUT, EXIT_RUN_DIRECTORY, CrunBatchError, InputError
from crun_batch.options import RunOptions
from crun_batch.session.orders import ORDERS, Steerable
from crun_batch.state.steered import written
from crun_batch.state.telling import MOST_BYTES, who
from crun_batch.store.control import ControlSocket, Peer, peer_of

QUESTION_SECONDS = 5.0
"""How long somebody who has connected may take to ask, and to take the answer."""


NO_DESCRIPTOR_SECONDS = 1.0
Keep = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Writes down what was told, after which it holds. Raises CrunBatchError, which says what does."""


@contextmanager
def control_socket(folder: Path, options: RunOptions) -> Iterator[ControlSocket | None]:
    """The socket for people; None where the session is played, or its file system takes none, which is said."""
    listening = None
    if not options.platform.in_place:
        try:
            listening = ControlSocket(folder)
        except OSError as error:
            why = error.strerror or str(error)
            options.say(f"{folder}: set, pause, resume and stop cannot reach this session ({why}); signals do")
    try:
        yield listening
    finally:
        if listening is not None:
            listening.close()


class Listener:
    """Answers whoever connects to what he may steer."""

    def __init__(
        self,
        steering: Steerable,
        keep: Keep,
        options: RunOptions,
    ) -> None:
        self._steering = steering
        self._keep = keep
        self._options = options

    async def listen(self, listening: socket.socket) -> None:
        """Take one connection after the other, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:  # no descriptor is left: who has connected waits for one
                await asyncio.sleep(NO_DESCRIPTOR_SECONDS)
                continue
            with connection, suppress(OSError):  # who goes away, or says nothing for too long
                await self._serve(connection)

    async def _serve(self, connection: socket.socket) -> None:
        """One question and its answer, which is given also where it ends the session, and this with it."""
        async with asyncio.timeout(QUESTION_SECONDS):
            question = await _question(connection)
        answering = asyncio.create_task(self._answer_to(connection, question))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            with suppress(OSError):
                await answering
            raise

    async def _answer_to(self, connection: socket.socket, question: object) -> None:
        loop = asyncio.get_running_loop()
        answer = await self.answer(peer_of(connection), question)
        async with asyncio.timeout(QUESTION_SECONDS):
            await loop.sock_sendall(connection, orjson.dumps(answer) + b"\n")

    async def answer(self, peer: Peer, question: object) -> dict[str, Any]:
        """Do what is asked, and say what it changed; or why not, with the exit code of such a refusal."""
        if peer.user_id not in (None, 0, os.geteuid()):
            return _refused(EXIT_RUN_DIRECTORY, "only the user who started the run may steer it")
        order = ORDERS.get(str(question.get("do"))) if isinstance(question, dict) else None
        if order is None or not isinstance(question, dict):
            return _refused(EXIT_RUN_DIRECTORY, f"this session knows only {', '.join(ORDERS)}")
        by = who(peer.user_id, peer.process_id)
        try:
            changes = order(self._steering, question, by["user"])
        except InputError as error:
            mistakes = [structs.asdict(mistake) for mistake in error.mistakes]
            return {**_refused(EXIT_INPUT, str(error)), "mistakes": mistakes}
        except Exception as error:  # noqa: BLE001 - told to who asked; it must not end a run that pays
            return _refused(EXIT_RUN_DIRECTORY, f"a bug in what was told: {error!r}")
        at = self._options.clock.now().isoformat(timespec="seconds")
        told = {"do": question["do"], "at": at, "by": by, "changes": changes}
        try:
            await self._keep(told)
        except CrunBatchError as error:
            return _refused(error.exit_code, str(error))
        self._options.say(_words(told))
        timeout_seconds = self._steering.drains_in_seconds
        return {**told, "in_flight": self._steering.in_flight, "attempt_timeout_seconds": timeout_seconds}


async def _question(connection: socket.socket) -> object:
    """The first line that comes, read; None for what is no JSON, or too long."""
    loop, line = asyncio.get_running_loop(), b""
    while not line.endswith(b"\n") and len(line) <= MOST_BYTES:
        piece = await loop.sock_recv(connection, MOST_BYTES)
        if not piece:
            raise ConnectionResetError("it said nothing whole")
        line += piece
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _refused(exit_code: int, words: str) -> dict[str, Any]:
    return {"error": words, "exit_code": exit_code}


def _words(told: Mapping[str, Any]) -> str:
    """What the session's own terminal says of it."""
    done = {"pause": "paused", "resume": "resumed", "stop": "stopped"}.get(told["do"], "set")
    values = [f"{one['key']} {written(one['old'])} -> {written(one['new'])}" for one in told["changes"]]
    values = values if told["do"] == "set" else []
    return one_line(f"{done} by {told['by']['user']}" + (f": {', '.join(values)}" if values else ""))
