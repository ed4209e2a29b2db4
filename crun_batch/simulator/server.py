"""The simulated gateway as a running server, on the event loop that runs already."""

from __future__ import annotations

import asyncio
import resource
import socket
from types import TracebackType

from crun_batch.simulator.admin import ADMIN_PATH, handle_admin
from crun_batch.simulator.connection import Delivery, ReceivedRequest, ServerConnection
from crun_batch.simulator.gateway import SimulatedGateway
from crun_batch.simulator.listening import BACKLOG, address_of, listen
from crun_batch.simulator.settings import BASE_PATH, Settings


class Simulator:
    """A simulated gateway in the running event loop: `async with Simulator(settings) as simulator: ...`.

    `base_url` is where it listens: at `listening`, or where the settings say. `gateway` gives access to books,
    counters and settings. For another process, see `SimulatorProcess`.
    Raises InputError for settings that make no sense or a port that cannot be had.
    """

    def __init__(self, settings: Settings | None = None, listening: socket.socket | None = None) -> None:
        self._listening = listening
        self.gateway = SimulatedGateway(settings or Settings())
        self._connections: set[ServerConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; returns the base URL, such as `http://127.0.0.1:8123/api/v1`."""
        settings = self.gateway.settings
        loop = asyncio.get_running_loop()
        listening = self._listening or listen(settings.host, settings.port)
        self._server = await loop.create_server(self._connection, sock=listening, backlog=BACKLOG)
        return self.base_url

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.close()
        await self._server.wait_closed()
        self._server = None
        self.gateway.ledger.close()

    @property
    def address(self) -> str:
        """Scheme, host and port, without a path."""
        assert self._server is not None, "the simulator has not been started"
        return address_of(self._server.sockets[0])

    @property
    def base_url(self) -> str:
        """The URL under which the endpoints are found."""
        return self.address + BASE_PATH

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _connection(self) -> ServerConnection:
        return ServerConnection(self._handle, lambda: self.gateway.settings.max_body_bytes, self._connections)

    def _handle(self, request: ReceivedRequest) -> Delivery:
        if request.path.startswith(ADMIN_PATH):
            return handle_admin(self.gateway, request)
        return self.gateway.handle(request)


def allow_many_connections() -> None:
    """Raise this process's limit of open files as far as it may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
