"""A part of the kills of jobs by several workers, and the cables that are cut there."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from msgspec import structs

from .cables import Cables
from .workers import BUDGETS, KILLS, Plan, played

FOREVER = float("inf")


def echoed(connection: socket.socket, word: bytes, seconds: float) -> bytes | None:
    connection.settimeout(seconds)
    try:
        connection.sendall(word)
        return connection.recv(100)
    except TimeoutError:
        return None


def test_what_is_said_while_a_cable_is_cut_comes_late():
    """Nothing is refused and nothing is lost; the other cables are whole."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_echo_all, args=[connection], daemon=True).start()

        threading.Thread(target=echo, daemon=True).start()
        cables = Cables(2, server.getsockname()[1])
        one, other = (socket.create_connection(("127.0.0.1", cables.port(number))) for number in (0, 1))
        with one, other:
            assert b"a" == echoed(one, b"a", 5)
            cables.cut(0)
            time.sleep(0.05)
            assert echoed(one, b"b", 0.2) is None
            assert b"c" == echoed(other, b"c", 5)
            cables.mend(0)
            one.settimeout(5)
            assert b"b" == one.recv(100)
        cables.close()
        server.shutdown(socket.SHUT_RDWR)


def _echo_all(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)


CASES: dict[str, tuple[Plan, str]] = {
    "kills": (structs.replace(KILLS, rows=400, deaths=(3, 3), cuts=0.0), "coordinated"),
    "kills on one machine": (
        structs.replace(KILLS, rows=400, workers=(2,), deaths=(2, 2), cuts=0.0),
        "one machine",
    ),
    "kills on Ray": (structs.replace(KILLS, workers=(2,), deaths=(3, 3), cuts=0.0), "ray"),
    "money": (structs.replace(BUDGETS, deaths=(1, 1)), "coordinated"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_job_by_several_workers_survives_its_kills(case: str):
    """Nothing recorded is lost, each bill is one that is named, the limits and the budget hold."""
    plan, team = CASES[case]
    toll = played(plan, 10**9, 1, 1, [team], FOREVER)
    assert [] == toll.broken
    assert toll.kills == plan.deaths[0] and toll.rows > 0
