"""The driver's side of a Ray cluster, without one: givers that are lost, or that never answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_kit import tree

from crun_batch import InputError
from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions
from crun_batch.scale import ray_crew
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.messages import Order
from crun_batch.scale.ray_crew import CANNOT_BEGIN, RayCrew
from crun_batch.scale.ray_giver import GiverNews
from crun_batch.scale.restarts import MOST_STARTS
from crun_batch.store.directory import leases_folder

NEWS = GiverNews("keeper", [], None, [False], [], (0, 0), {}, None)


class RayFault(Exception):
    """What Ray raises."""


class PlayedRay:
    """A cluster on which the first givers are silent, or fail; `killed` are the names of those that were ended."""

    exceptions = SimpleNamespace(RayError=RayFault)

    def __init__(self, *first: str) -> None:
        self.first = list(first)
        self.actors: dict[str, Any] = {}
        self.killed: list[str] = []
        self.started = 0

    def get_actor(self, name: str, namespace: str) -> Any:
        if name not in self.actors:
            raise ValueError(name)
        return self.actors[name]

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed.append(actor.name)
        del self.actors[actor.name]

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(
            options=lambda name, **_: SimpleNamespace(remote=lambda *_: self._start(name))
        )

    def _start(self, name: str) -> Any:
        how, self.started = self.first.pop(0) if self.first else "answers", self.started + 1

        async def news(_: int) -> GiverNews:
            if how == "is silent":
                await asyncio.sleep(60)
            if how == "fails":
                del self.actors[name]
                raise RayFault("it has no disk")
            return NEWS

        self.actors[name] = SimpleNamespace(name=name, news=SimpleNamespace(remote=news))
        return self.actors[name]


def asked(ray: PlayedRay, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RayCrew:
    monkeypatch.setattr(ray_crew, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(ray_crew, "LOOKED_EVERY_SECONDS", 0.01)
    crew = RayCrew(ray, Job(**tree(folder, {})), RunOptions(environ={}))
    order = Order("law.json", (1, 1), {})
    crew._giver = crew._started_giver(order)
    asyncio.run(crew._asked_once(order))
    return crew


def test_a_giver_that_is_silent_is_ended_and_another_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray may have lost it: its name is there, and nobody answers. One that fails is started again too."""
    ray = PlayedRay("is silent", "fails")
    crew = asked(ray, tmp_path, monkeypatch)
    assert (3, 1, 1) == (ray.started, len(ray.killed), len(ray.actors))
    monkeypatch.setattr(ray_crew, "ANSWERED_WITHIN_SECONDS", 0.02)
    ray.first = ["is silent"]
    crew._kill("giver")
    order = Order("law.json", (1, 1), {})
    crew._giver = crew._started_giver(order)
    assert NEWS == asyncio.run(crew._watched(order))
    assert (5, 3) == (ray.started, len(ray.killed))


def test_who_has_no_process_is_ended_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As its book tells, which a giver that lives has open; each that is lost leaves its successor more time."""
    job = Job(**tree(tmp_path, {}))
    crew = RayCrew(PlayedRay(), job, RunOptions(environ={}))
    assert [90, 120, 120, 120] == [crew._patience_seconds(lost) for lost in range(4)]
    kept = KeptLeases(leases_folder(job.output.dir), started_at="now")
    assert [120, 120] == [crew._patience_seconds(lost) for lost in range(2)]
    kept.close()
    assert 90 == crew._patience_seconds(0)
    monkeypatch.setattr(ray_crew, "LOST_SECONDS", 0.05)
    ray = PlayedRay("is silent", "is silent")
    crew = RayCrew(ray, job, RunOptions(environ={}))
    order = Order("law.json", (1, 1), {})
    crew._giver = crew._started_giver(order)
    asyncio.run(crew._asked_once(order))
    assert (3, 2) == (ray.started, len(ray.killed))


def test_givers_that_cannot_begin_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what the last of them met."""
    with pytest.raises(InputError, match=f"{CANNOT_BEGIN}: it has no disk"):
        asked(PlayedRay(*["fails"] * MOST_STARTS), tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"{CANNOT_BEGIN}: it does not answer"):
        asked(PlayedRay(*["is silent"] * MOST_STARTS), tmp_path, monkeypatch)
