"""Connections of workers to their coordinator that can be cut: then nothing passes, and nothing is refused."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


class Cables:
    """A port of this machine for each of so many workers, which leads to one port. Threads may cut and mend."""

    def __init__(self, count: int, to_port: int) -> None:
        self._to_port = to_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cables", daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._whole = [asyncio.Event() for _ in range(count)]
        self._servers = [self._call(self._served(number)) for number in range(count)]
        for number in range(count):
            self.mend(number)

    def port(self, number: int) -> int:
        """Where a worker finds its coordinator, by its number from 0."""
        port: int = self._servers[number].sockets[0].getsockname()[1]
        return port

    def cut(self, number: int) -> None:
        """From now on nothing passes; what is said meanwhile comes late."""
        self._loop.call_soon_threadsafe(self._whole[number].clear)

    def mend(self, number: int) -> None:
        """What was said meanwhile comes now."""
        self._loop.call_soon_threadsafe(self._whole[number].set)

    def close(self) -> None:
        """Nobody is connected any more."""
        self._call(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, called: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(called, self._loop).result(10)

    async def _served(self, number: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            await self._whole[number].wait()
            try:
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
            except OSError:
                writer.transport.abort()
                return
            self._writers.add(other_writer)
            await asyncio.gather(
                self._pumped(number, reader, other_writer), self._pumped(number, other_reader, writer)
            )

        return await asyncio.start_server(connected, "127.0.0.1", 0)

    async def _pumped(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction of one connection to its end."""
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._whole[number].wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    async def _ended(self) -> None:
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.transport.abort()
        for whole in self._whole:
            whole.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has just now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
