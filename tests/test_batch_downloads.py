"""The results of a batch that come short: what the gateway has is not bought again because something cut it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import batch_kit
import httpx
import pytest
from run_kit import results, texts

from crun_batch.options import Platform
from crun_batch.simulator import SimulatorProcess
from tests.chaos.batch_job import FORMS

ROWS = 12
SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "cut at a line": lambda body: body[: body.rfind(b"\n", 0, len(body) // 2) + 1],
    "cut within a line": lambda body: body[: len(body) // 2 + 7],
    "empty": lambda _: b"",
    "a page": lambda _: b"<html><h1>Please log in</h1></html>\n" * 20,
}
"""What a proxy, or a network that wants a login, makes of a file whose length nobody told."""


class Spoiling(httpx.AsyncBaseTransport):
    """The way to the gateway, on which results are spoilt the first times they are read."""

    def __init__(self, how: str, form: str, times: int) -> None:
        looks = form == "openrouter"  # which tells of the end of a batch with all that it has
        self.left = [False] * looks + [True] * times
        self.came = 0
        """Lines that were not spoilt."""
        self._spoil = SPOILT[how]
        self._network = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._network.handle_async_request(request)
        body = await answer.aread()
        if request.method == "GET" and b'"custom_id"' in body and self.left and self.left.pop(0):
            body = self._spoil(body)
            self.came = body.count(b'"custom_id"')
        return httpx.Response(answer.status_code, content=body)


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def gateway(form: str) -> Iterator[SimulatorProcess]:
    with batch_kit.simulator(gateway_style=FORMS[form].gateway_style) as simulator:
        yield simulator


@pytest.mark.parametrize("how", SPOILT)
def test_results_that_came_short_are_asked_for_once_more(
    gateway: SimulatorProcess, form: str, how: str, tmp_path: Path
) -> None:
    """The gateway counts more as done than came: the rest is there, and is paid."""
    before, said = len(batch_kit.charges(gateway)), list[str]()
    way = Spoiling(how, form, times=1)
    job = batch_kit.job(gateway, tmp_path, form=form)
    done = batch_kit.run(
        job, texts(ROWS), say=said.append, platform=Platform(transport=way, batch_absent_seconds=0.2)
    )

    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
    assert {"done": ROWS} == Counter(done.attempts().collect()["outcome"])
    assert ROWS == len(batch_kit.charges(gateway)) - before
    assert [] == way.left
    assert any("not all of its results came; they are asked for once more" in one for one in said)


def test_results_that_stay_short_are_all_there_is(gateway: SimulatorProcess, form: str, tmp_path: Path) -> None:
    """After as long as lists may lag: what came at any time is kept, of the rest the outcome is unknown."""
    way = Spoiling("cut at a line", form, times=3)
    job = batch_kit.job(gateway, tmp_path, form=form)
    done = batch_kit.run(job, texts(ROWS), platform=Platform(transport=way, batch_absent_seconds=0.2))
    outcomes = Counter(done.attempts().collect()["outcome"])

    assert (0, {"ok": ROWS}) == (done.exit_code, Counter(results(done)["status"]))
    assert {"done": ROWS, "unknown": ROWS - way.came} == outcomes
