"""A run directory that is moved away while its run has it open: exit 7 in the same words, at whichever step."""

from __future__ import annotations

import importlib
import inspect
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit

import crun_batch
from crun_batch.errors import EXIT_DISK, DiskFailed
from crun_batch.simulator.process import SimulatorProcess

MOMENTS = (
    "state.opening.compare_requests",
    "pipeline.open_docket",
    "preflight.gateway_facts.ask_gateways",
    "session.repricing.choose_prices",
    "preflight.plan.make_plan",
    "session.repricing.record_prices",
    "session.sending.send",
    "session.sending.send_rows",
    "session.sending.judge_answers",
    "session.sending.conclude_pilot",
    "pipeline.close_and_tell",
    "session.closing.score_answers",
    "session.closing.publish_filled",
    "session.closing.write_json",
)
"""Steps of a session that has its directory open; it is moved away just before each of them."""
BEFORE_SENDING = MOMENTS[:7]


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


def a_job(gateway: SimulatorProcess, folder: Path, **output: Any) -> crun_batch.Job:
    judge = {"name": "good", "grader": "judge", "model": "gpt-5.4-nano", "labels": {"yes": 1, "no": 0}}
    return run_kit.job(gateway, folder, score=[judge], output={"dir": str(folder / "run"), **output})


def just_before(moment: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = f"crun_batch.{moment}".rpartition(".")
    step = getattr(importlib.import_module(module), name)

    async def later(*args: Any, **keys: Any) -> Any:
        act()
        return await step(*args, **keys)

    def now(*args: Any, **keys: Any) -> Any:
        act()
        return step(*args, **keys)

    monkeypatch.setattr(f"{module}.{name}", later if inspect.iscoroutinefunction(step) else now)


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_comes_next_says_that_the_directory_is_gone(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A pilot that goes on, with judges and a late column: every part of a session reads the directory."""
    table = run_kit.texts(6).with_columns(lang=pl.lit("en"))
    run_kit.run(a_job(gateway, tmp_path), table, limit=2)
    place, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def move() -> None:
        if place.exists():
            place.rename(elsewhere)

    just_before(moment, move, monkeypatch)
    asked = gateway.ledger()["count"]
    job = a_job(gateway, tmp_path, columns=["lang"])
    with pytest.raises(DiskFailed, match="no longer where this session started") as failed:
        run_kit.run(job, table, pilot=4)
    assert EXIT_DISK == failed.value.exit_code
    assert moment not in BEFORE_SENDING or asked == gateway.ledger()["count"]
    monkeypatch.undo()
    assert not place.exists()
    elsewhere.rename(place)
    done = run_kit.run(job, table)
    assert (0, 6) == (done.exit_code, done.summary["rows"]["ok"])
    assert [] == done.verify(data=True)


@pytest.mark.parametrize(
    "moment", ["state.opening.compare_requests", "pipeline.open_docket", "session.closing.score_answers"]
)
def test_a_directory_that_is_deleted_file_by_file_is_gone_too(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The lock's file may be the last that goes: what is missed before is no bug and no damage."""
    table = run_kit.texts(6).with_columns(lang=pl.lit("en"))
    run_kit.run(a_job(gateway, tmp_path), table, limit=2)
    place = tmp_path / "run"

    def delete() -> None:
        for file in (path for path in place.rglob("*") if path.is_file() and path.name != ".lock"):
            file.unlink()
        threading.Timer(0.2, shutil.rmtree, [place, True]).start()

    just_before(moment, delete, monkeypatch)
    with pytest.raises(DiskFailed, match="no longer where this session started"):
        run_kit.run(a_job(gateway, tmp_path, columns=["lang"]), table)
