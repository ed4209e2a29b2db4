"""Several runs in one process, whose own handlers of signals they leave as they were."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_kit import ENVIRON, RecordingWire, job, simulator, texts

import crun_batch
from crun_batch.simulator.process import SimulatorProcess

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.02) as process:
        yield process


async def both(gateway: SimulatorProcess, folder: Path, rows: tuple[int, int], wire=RecordingWire):
    limits = {"concurrency": 4, "adaptive": False}
    asked = [
        crun_batch.arun(
            job(gateway, folder / name, limits=limits), table=texts(count), environ=ENVIRON, wire=wire()
        )
        for name, count in zip("ab", rows, strict=True)
    ]
    return await asyncio.gather(*asked)


@pytest.mark.parametrize("rows", [(4, 40), (40, 4)], ids=["the first ends first", "the second ends first"])
def test_the_handlers_of_signals_are_back_after_runs_side_by_side(gateway, tmp_path, rows):
    """Whichever ends first: Ctrl-C and SIGTERM had been ignored for the rest of the process."""
    before = [signal.getsignal(number) for number in ENDING]
    assert ["finished", "finished"] == [run.status for run in asyncio.run(both(gateway, tmp_path, rows))]
    assert before == [signal.getsignal(number) for number in ENDING]


def test_ctrl_c_is_for_each_run_of_the_process(gateway, tmp_path):
    """Each drains; the last one alone had heard of it."""
    sending = []

    class Interrupting(RecordingWire):
        """Ctrl-C, once, when both runs send."""

        async def post(self, url, headers, body, deadline_seconds):
            sending.append(self)
            answer = await super().post(url, headers, body, deadline_seconds)
            if len({*map(id, sending)}) == 2 and "Ctrl-C" not in sending:
                sending.append("Ctrl-C")
                os.kill(os.getpid(), signal.SIGINT)
            return answer

    ended = asyncio.run(both(gateway, tmp_path, (2000, 2000), Interrupting))
    assert ["Ctrl-C", "Ctrl-C"] == [run.stop_reason for run in ended]
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_a_terminal_that_closes_counts_once_however_often_it_is_told(gateway, tmp_path):
    """What is in flight is waited for: the shell and the system both say it, and one after the other here."""

    class Closing(RecordingWire):
        """Both words come when the first request is on its way."""

        async def post(self, url, headers, body, deadline_seconds):
            if not self.sent:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGHUP)
            return await super().post(url, headers, body, deadline_seconds)

    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    try:
        asked = crun_batch.arun(job(gateway, tmp_path), table=texts(2000), environ=ENVIRON, wire=Closing())
        ended = asyncio.run(asked)
    finally:
        signal.signal(signal.SIGHUP, former)
    assert (143, "SIGHUP") == (ended.exit_code, ended.stop_reason)
    assert 0 == ended.summary["unknown_attempts"] < ended.summary["rows"]["ok"] < 2000
