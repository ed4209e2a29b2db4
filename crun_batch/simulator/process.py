"""The simulated gateway in a process of its own, so that it and its client do not share an interpreter lock.

The settings go to the child's standard input, which then stays open: when it closes, because we stop or
because we have died, the child ends. The child is in a session of its own: a Ctrl-C meant for its client does
not reach it. The port is bound here and handed over: who needs only an address waits for no child.
"""

from __future__ import annotations

import socket
import subprocess
from types import TracebackType
from typing import IO, Any

import msgspec
import orjson

from crun_batch.errors import InputError
from crun_batch.interpreter import python_module
from crun_batch.simulator.listening import base_url_of, listen
from crun_batch.simulator.settings import Settings, read_settings, write_settings

_ADMIN_SECONDS = 30.0


class SimulatorProcess:
    """A simulated gateway in a child process: `with SimulatorProcess(settings) as simulator: simulator.base_url`.

    All calls block. Raises InputError for a port that cannot be had and settings that the child refuses,
    RuntimeError if it does not start.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.base_url = ""
        self._listening: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def listen(self) -> SimulatorProcess:
        """Take the port; `base_url` is known from then on. Calls wait there until `start`."""
        self._listening = listen(self.settings.host, self.settings.port)
        self.base_url = base_url_of(self._listening)
        return self

    def start(self) -> SimulatorProcess:
        """Start the child and wait until it answers; `base_url` is known from then on, if not before."""
        if self._listening is None:
            self.listen()
        assert self._listening is not None
        with self._listening as listening:
            told = ("--settings-stdin", "--listening-fd", str(listening.fileno()))
            self._child = subprocess.Popen(
                python_module("crun_batch.simulator", *told, options=("-W", "ignore")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[listening.fileno()],
            )
        self._listening = None
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(write_settings(self.settings) + b"\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the simulator did not start; its own message is on standard error")
        return self

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._child is not None, "the simulator has not been started"
        return self._child.pid

    def stop(self) -> None:
        """End the child and wait for it, and leave the port; a second call does nothing."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        child, self._child = self._child, None
        if child is None:
            return
        _close(child.stdin)
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        _close(child.stdout)

    def ledger(self, entries: bool = False, after: int = -1) -> dict[str, Any]:
        """Totals: `count`, `charge_credits` and `balance_credits` (decimal text); and `entries` after a serial."""
        return self._admin(f"ledger?entries={int(entries)}&after={after}")

    def stats(self) -> dict[str, Any]:
        """Counters: requests, paths, statuses, faults, rejections, in_flight, max_in_flight."""
        return self._admin("stats")

    def change(self, **settings: Any) -> None:
        """Change settings of the running simulator, named as in Settings; raises InputError."""
        self._admin("settings", msgspec.json.encode(settings))

    def __enter__(self) -> SimulatorProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _admin(self, call: str, body: bytes | None = None) -> dict[str, Any]:
        from urllib.error import HTTPError
        from urllib.request import ProxyHandler, Request, build_opener

        address = self.base_url.rsplit("/api/", 1)[0]
        try:
            with build_opener(ProxyHandler({})).open(
                Request(f"{address}/simulator/{call}", data=body), timeout=_ADMIN_SECONDS
            ) as reply:
                answer: dict[str, Any] = orjson.loads(reply.read())
        except HTTPError as error:
            raise InputError(str(orjson.loads(error.read())["error"])) from None
        return answer


def start_simulator(settings: Settings | None = None, **changes: Any) -> SimulatorProcess:
    """Start a simulated gateway in a child process; `changes` are settings by name. The caller calls `stop()`."""
    return SimulatorProcess(read_settings(changes, base=settings or Settings())).start()


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()
