"""The page tells a running session what a terminal would, on loopback alone, and shows what it answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import run_kit
from browser_kit import CHROMIUM, Browser
from page_run_kit import Asker
from run_kit import wait_until
from test_steering import ended, in_flight, running, written

import crun_batch
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.directory import read_json

PICTURES = os.environ.get("PAGE_PICTURES")
"""A folder for what was seen, to look at."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(latency_seconds=0.2, output_tokens_median=5, output_tokens_sigma=0) as process:
        yield process


def told(asker: Asker, body: Any) -> tuple[int, Any]:
    headers = {**asker.token, "Content-Type": "application/json"}
    status, _, answer = asker.raw("/api/steer", headers, "POST", json.dumps(body).encode())
    return status, json.loads(answer)


def test_a_session_is_told_from_the_page_as_from_a_terminal(tmp_path: Path, gateway: SimulatorProcess) -> None:
    """A limit, a pause, an end: done when answered, in job.json with the user; a wrong value changes none."""
    with running(written(tmp_path, gateway)) as process, crun_batch.view(tmp_path / "run") as page:
        asker = Asker(page)
        assert asker.get("facts")["may_steer"]
        wait_until(lambda: in_flight(gateway) == 4)
        assert (4, None) == tuple(
            asker.get("status")["settings"][key] for key in ("limits.concurrency", "budget.max_cost_credits")
        )
        status, answer = told(asker, {"do": "set", "values": {"limits.concurrency": 9}})
        assert (200, [{"key": "limits.concurrency", "old": 4, "new": 9}]) == (status, answer["changes"])
        assert 9 == asker.get("status")["settings"]["limits.concurrency"]
        wait_until(lambda: in_flight(gateway) == 9)
        wrong = {"limits.concurrency": 3, "budget.max_cost_credits": "0.000001"}
        status, answer = told(asker, {"do": "set", "values": wrong})
        assert 400 == status and "is less than what is gone" in answer["error"]
        assert 9 == asker.get("status")["settings"]["limits.concurrency"]
        assert 200 == told(asker, {"do": "pause"})[0]
        wait_until(lambda: in_flight(gateway) == 0)
        assert asker.get("status")["steering"]["paused"]["by"]["user"]
        assert 200 == told(asker, {"do": "resume"})[0]
        wait_until(lambda: in_flight(gateway) == 9)
        assert 200 == told(asker, {"do": "stop"})[0]
        assert 143 == ended(process)[0]
        log = read_json(tmp_path / "run" / "job.json")["steering"]["log"]
        assert ["set", "pause", "resume", "stop"] == [one["do"] for one in log]
        status, answer = told(asker, {"do": "pause"})
        assert 500 == status and "no session runs there now" in answer["error"]
        assert asker.get("status")["settings"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"do": "kill"}',
        b'{"do": "set"}',
        b'{"do": "set", "values": {"limits.concurrency": [1]}}',
        b'{"do": "pause", "values": {}}',
        b'{"do": "stop", "more": 1}',
        b"\xff",
    ],
)
def test_what_is_no_order_is_refused_before_a_session_hears_of_it(asker: Asker, body: bytes) -> None:
    headers = {**asker.token, "Content-Type": "application/json"}
    status, _, answer = asker.raw("/api/steer", headers, "POST", body)
    assert 400 == status and json.loads(answer)["error"]


def test_without_the_token_nobody_steers(asker: Asker) -> None:
    headers = {"Content-Type": "application/json"}
    assert 401 == asker.raw("/api/steer", headers, "POST", b'{"do": "stop"}')[0]
    assert 403 == asker.raw("/api/steer", {**headers, **asker.token, "Origin": "http://a.test"}, "POST", b"{}")[0]


def test_a_page_for_other_machines_steers_nothing(finished: Path) -> None:
    """Who is shown the rows does not raise a cap."""
    with crun_batch.view(finished, host="0.0.0.0") as page:
        asker = Asker(page)
        assert not asker.get("facts")["may_steer"]
        headers = {**asker.token, "Content-Type": "application/json"}
        assert 404 == asker.raw("/api/steer", headers, "POST", b'{"do": "stop"}')[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, gateway: SimulatorProcess) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    return run_kit.run(run_kit.job(gateway, folder), run_kit.texts(3)).directory


@pytest.fixture(scope="module")
def asker(finished: Path) -> Iterator[Asker]:
    with crun_batch.view(finished) as page:
        yield Asker(page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_buttons_pause_a_run_let_it_go_on_and_stop_it(
    tmp_path: Path, gateway: SimulatorProcess, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a click did is said in the session's own words; a stop asks once more; keys do not reach through it."""
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)  # where the table is found, which knows rows that were not sent yet
    with (
        running(written(tmp_path, gateway)) as process,
        crun_batch.view(run) as page,
        Browser(tmp_path / "profile") as browser,
    ):
        browser.size(size)
        browser.go(page.url)
        browser.wait("!document.getElementById('steer').hidden")
        browser.run("history.pushState(null, '', '?id=3999'); dispatchEvent(new Event('popstate'))")
        browser.wait("document.getElementById('row').textContent.includes('nothing is recorded of this row yet')")
        browser.press("Escape")
        said = "document.getElementById('told').textContent"
        browser.run("document.getElementById('limits').open = true")
        field = "document.querySelector('#limits [name=\"limits.concurrency\"]')"
        assert "4" == browser.wait(f"{field}.value")
        if PICTURES:
            browser.run("new Promise((done) => setTimeout(done, 300))")  # the menu rises
            browser.picture(Path(PICTURES) / f"steer-{size}.png")
        browser.run(f"{field}.value = '7'; document.querySelector('#limits [type=submit]').click()")
        assert browser.wait(f"{said}.includes('limits.concurrency: 4 → 7')")
        browser.run("document.getElementById('pause').click()")
        assert browser.wait(f"{said}.startsWith('paused; ')")
        browser.wait("document.getElementById('pause').textContent === 'resume'")
        paused = crun_batch.status(run)["steering"]["paused"]
        when = paused["at"][:19].replace("T", " ")
        words = "document.getElementById('words').textContent"
        assert browser.wait(f"{words}.startsWith('paused at {when} UTC by {paused['by']['user']}')")
        browser.run("document.getElementById('pause').click()")
        assert browser.wait(f"{said} === 'it goes on'")
        browser.wait("document.getElementById('pause').textContent === 'pause'")
        assert "paused" not in browser.run(words)
        browser.run("document.getElementById('stop').click()")
        browser.wait("document.getElementById('sure').open")
        browser.run("document.getElementById('go-on').click()")
        assert process.poll() is None
        browser.run("document.getElementById('stop').click(); document.getElementById('stop-it').click()")
        assert 143 == ended(process)[0]
        browser.wait("document.getElementById('steer').hidden")
        assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert [] == browser.complaints()
