"""The driver's side of a Ray cluster, without one: givers that are lost, or that never answer."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_kit import tree

from crun_batch import InputError
from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions
from crun_batch.scale import ray_cluster, ray_crew
from crun_batch.scale.giver import AllEnds
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.messages import Order, encode
from crun_batch.scale.ray_cluster import connected, why_closed
from crun_batch.scale.ray_crew import CANNOT_BEGIN, RayCrew
from crun_batch.scale.ray_giver import GiverNews, LeaseGiver
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
        self.refusal = ""

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
            if how == "refuses":
                raise RayFault(self.refusal)
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


def test_a_giver_that_refuses_the_job_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another version on the nodes, a job file that they do not see: it would end so again."""
    refusal = "its nodes have crun-batch 1, this command is 2"
    ray = PlayedRay("refuses")
    ray.refusal = f"The actor died\ncrun_batch.errors.InputError: {refusal}"
    with pytest.raises(InputError, match=f"{CANNOT_BEGIN}: {refusal}"):
        asked(ray, tmp_path, monkeypatch)
    assert 1 == ray.started


def test_another_version_on_the_nodes_is_refused(tmp_path: Path):
    """By the giver, before it opens anything: what both mean by a lease may differ."""
    order = encode(Order("law.json", (1, 1), {}, version="0.0"))
    with pytest.raises(InputError, match=r"its nodes have crun-batch .+, this command is 0\.0: install the same"):
        LeaseGiver(order, str(tmp_path))


def test_a_local_cluster_is_a_new_one(monkeypatch: pytest.MonkeyPatch):
    """Without an address Ray would take a cluster that was started here before, which may be dead."""
    asked: dict[str, Any] = {}
    module = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **keys: asked.update(keys), shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", module)
    with connected("local", simulate=False):
        pass
    assert "local" == asked["address"]


def test_a_cluster_that_nobody_hears_is_refused_at_once():
    """Ray would knock for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"--ray {place}: no cluster answers there: {place}: .*refused"):
        connected(place, simulate=False).__enter__()
    assert [None, None] == [why_closed(one) for one in ("auto", "ray://127.0.0.1:1")]


def test_a_cluster_that_goes_away_ends_the_command_in_words(monkeypatch: pytest.MonkeyPatch):
    """Ray's calls stand still then, and after a minute it ends their process without any: this one goes before."""
    monkeypatch.setattr(ray_cluster, "KNOCKED_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(ray_cluster, "AWAY_SECONDS", 0.05)
    head = socket.create_server(("127.0.0.1", 0))
    place, stands_still, is_told = f"127.0.0.1:{head.getsockname()[1]}", threading.Event(), []

    async def work() -> AllEnds:
        try:
            await ray_cluster.beside(stands_still.wait)
        except asyncio.CancelledError:
            is_told.append(True)
            raise
        return AllEnds([], (0, 0))

    async def played() -> AllEnds:
        asyncio.get_running_loop().call_later(0.1, head.close)
        return await ray_cluster.as_long_as_it_is_there(place, work(), 2)

    ends = asyncio.run(played()).ends
    assert [143, 143] == [end.exit_code for end in ends] and [True] == is_told
    assert f"the cluster is gone ({place}: " in str(ends[0].message)
    stands_still.set()
    assert AllEnds([], (0, 0)) == asyncio.run(ray_cluster.as_long_as_it_is_there(place, work(), 2)), (
        "or it was done"
    )


def test_what_ray_raises_beside_the_loop_is_raised():
    with pytest.raises(ValueError, match="no actor"):
        asyncio.run(ray_cluster.beside(_raise, ValueError("no actor")))


def _raise(error: Exception) -> None:
    raise error


def test_givers_that_cannot_begin_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what the last of them met."""
    with pytest.raises(InputError, match=f"{CANNOT_BEGIN}: it has no disk"):
        asked(PlayedRay(*["fails"] * MOST_STARTS), tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"{CANNOT_BEGIN}: it does not answer"):
        asked(PlayedRay(*["is silent"] * MOST_STARTS), tmp_path, monkeypatch)
