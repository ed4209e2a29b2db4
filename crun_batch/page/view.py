"""A page that is served, until it is stopped: the public `View`.

uvicorn runs on a thread of its own, so that a notebook's event loop, or a command that waits, stays free. Loads no
library: it is a public name beside all others.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

ENDS_WITHIN_SECONDS = 5.0


class View:
    """A page on this machine. `url` opens it: behind its # stands the token, which no browser sends anywhere.

    `stop()` ends it; as a context manager it ends with the block.
    """

    def __init__(
        self, url: str, server: uvicorn.Server, listening: socket.socket, close: Callable[[], None]
    ) -> None:
        self.url = url
        self._server = server
        self._close = close
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the page is no longer served."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def stop(self) -> None:
        """Close the port and what is open of the runs; stopping again does nothing."""
        self._server.should_exit = True
        self._thread.join(ENDS_WITHIN_SECONDS)
        self._server.force_exit = True
        self._close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<View {self.url.partition('#')[0]}; its .url opens it>"
