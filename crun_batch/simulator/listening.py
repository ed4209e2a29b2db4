"""Where the simulated gateway listens. Its address is known from then on, before anything answers there."""

from __future__ import annotations

import socket

from crun_batch.errors import InputError
from crun_batch.simulator.settings import BASE_PATH

BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections, which wait until they are accepted; port 0 takes a free one.

    Raises InputError where the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while ")[0]  # what follows names the place again
        message = f"the simulator cannot listen on {host}, port {port}: {reason}"
        raise InputError(message, advice="port 0 takes a free one") from error


def base_url_of(listening: socket.socket) -> str:
    """The URL under which the endpoints are found."""
    return address_of(listening) + BASE_PATH


def address_of(listening: socket.socket) -> str:
    """Scheme, host and port, without a path."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
