"""A coordinator and its workers: grants on disk before they are given, deaths of both, workers that are cut off.

What is played here has no processes: a clock of its own, real locks and a real file of grants. Whole runs are in
test_coordinated_runs.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leases import STEP_SECONDS, PlayedWorker

from crun_batch.errors import DiskFailed, RunDamaged, RunInUse
from crun_batch.records import Halt
from crun_batch.scale.coordinator import AWAITED_SECONDS, LATE_SECONDS, Coordinator
from crun_batch.scale.exchange import FromShard, why_not_alike
from crun_batch.scale.giver import Giver, Watchers, WorkerEnd
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.leases import LEASE_SECONDS, LeaseBook, SharedLimits, UnitMoney, WorkerReport
from crun_batch.scale.messages import Ended, Failed, FromWorker, Granted, Reported, Stop
from crun_batch.store.disk import Disk

ATTEMPT_SECONDS = 3.0
HOLD = 100


class QuickDisk(Disk):
    """Whose syncs cost nothing, as long as no machine stops."""

    def sync(self, descriptor: int) -> None:
        self.synced_bytes = os.fstat(descriptor).st_size

    def sync_folder(self, path: Path) -> None: ...


class Owned:
    """A run directory that a process has opened: its lock, with its name in it."""

    def __init__(self, place: Path, name: str) -> None:
        place.mkdir(exist_ok=True)
        self.name = name
        self.lock = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, f"{name}\n".encode(), 0)

    def ends(self) -> None:
        os.close(self.lock)


class Scene:
    """A folder, a clock, and coordinators that come after one another."""

    def __init__(self, folder: Path, count: int, limits: SharedLimits, disk: Disk | None = None) -> None:
        self.folder, self.limits, self.disk = folder, limits, disk or QuickDisk()
        self.places = [folder / f"run-shard-{number + 1}-of-{count}" for number in range(count)]
        self.now = 0.0
        self.committed: Callable[[int], int] = lambda number: 0
        self.ended: dict[int, WorkerEnd] = {}
        self.said: list[str] = []
        self.sequence = 0
        self.kept: KeptLeases | None = None
        self.coordinator = self.start()

    def start(self) -> Coordinator:
        self.kept = KeptLeases(self.folder / "leases", started_at="now", disk=self.disk)
        watchers = Watchers(
            self.said.append,
            lambda *_: None,
            lambda *_: None,
            lambda *_: None,
            lambda number: (self.committed(number), 0),
            lambda number: self.ended.get(number),
        )
        book = LeaseBook(self.limits, [(self.committed(n), 0) for n in range(len(self.places))])
        self.coordinator = Coordinator(
            Giver(book, watchers), self.kept, self.places, {"model": "m"}, ATTEMPT_SECONDS, lambda: self.now
        )
        return self.coordinator

    def killed(self, *, loses_its_disk: bool = False) -> None:
        """Its process is gone; its lock with it."""
        assert self.kept is not None
        os.close(self.kept._lock)
        if loses_its_disk:
            shutil.rmtree(self.folder / "leases")

    def ask(self, number: int, name: str, *messages: FromWorker, **other: Any) -> list[Any]:
        self.sequence += 1
        words: dict[str, Any] = {"shard": (number + 1, len(self.places)), "owner": name}
        words |= {"sequence": self.sequence, "asks": {"model": "m"}, "messages": list(messages), **other}
        return self.coordinator.exchange(FromShard(**words)).messages

    def grant(self, number: int, owner: str, report: WorkerReport | None = None) -> Any:
        """What a worker that reports this is granted; None: nothing."""
        answers = self.ask(number, owner, Reported(report or WorkerReport()))
        return answers[0].grant if answers and isinstance(answers[0], Granted) else None


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, 2, SharedLimits(10, 1_000))


def used(cap: int | None, committed: int, **other: Any) -> WorkerReport:
    return WorkerReport(usd=UnitMoney(cap, committed, HOLD), **other)


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({"version": "1", "model": "m"}, None),
        (
            {"version": "2", "model": "n"},
            "the coordinator is crun-batch 1, this worker 2: install the same on both",
        ),
        ({"model": "m"}, "the coordinator is crun-batch 1, this worker an older one: install the same on both"),
        (
            {"version": "1", "model": "n"},
            "the coordinator's job and this worker's differ in model: give both the same",
        ),
    ],
)
def test_a_worker_of_another_version_or_job_is_refused_for_that(there: dict[str, str], why: str | None):
    """Another version is told before what it may have made of the job."""
    assert why == why_not_alike({"version": "1", "model": "m"}, there)


def test_a_grant_is_on_the_disk_before_it_is_given(tmp_path: Path):
    """All of its line is synced; where that fails nothing is given, then or later, and the reason is kept."""
    disk = QuickDisk()
    scene = Scene(tmp_path, 2, SharedLimits(10, 1_000), disk)
    Owned(scene.places[0], "one")
    assert 10 == scene.grant(0, "one").places
    assert disk.synced_bytes == (tmp_path / "leases" / "grants.jsonl").stat().st_size > 0
    length = disk.synced_bytes
    scene.grant(0, "one", used(500, 0, places=10, share=10**9))
    assert length == disk.synced_bytes, "what is there is not written again"

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    disk.sync = fails  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(DiskFailed, match=r"grants\.jsonl: cannot write"):
            scene.grant(0, "one", used(500, 300, places=10, share=10**9))
    assert isinstance(scene.coordinator.failure, DiskFailed)


def test_a_killed_coordinator_goes_on_where_it_was(scene: Scene):
    """Its worker is known by its name, and keeps what it has; nobody gets what was given before that has ended."""
    for number, name in enumerate(("one", "two")):
        Owned(scene.places[number], name)
    first = scene.grant(0, "one", used(None, 0))
    assert (10, 500) == (first.places, first.max_usd_pico)
    scene.killed()
    scene.now += 1
    scene.start()
    assert (0, 250) == ((late := scene.grant(1, "two", used(None, 0))).places, late.max_usd_pico)
    again = scene.grant(0, "one", used(500, 400, places=10, share=10**9, in_flight=10))
    assert 5 == again.places and again.max_usd_pico <= 1_000 - 250


def test_a_coordinator_without_its_disk_waits_out_what_was_given(scene: Scene):
    """Nothing is given for one lease; then the journals say what was committed."""
    Owned(scene.places[0], "one")
    scene.grant(0, "one", used(None, 0))
    scene.killed(loses_its_disk=True)
    scene.committed = lambda number: (0, 0)[number]
    scene.start()
    scene.now += LEASE_SECONDS
    assert None is scene.grant(0, "one", used(500, 480))
    scene.committed = lambda number: (500, 0)[number]
    scene.now += 1
    scene.coordinator.look_after()
    Owned(scene.places[1], "two")
    assert 250 == scene.grant(1, "two", used(None, 0)).max_usd_pico, "half of what the journal leaves"


def test_a_coordinator_without_its_disk_knows_who_has_ended(scene: Scene):
    """By the summary of its run directory: who is done will not come to say so again. All others may."""
    for number, name in enumerate(("one", "two")):
        Owned(scene.places[number], name).ends()
    for exit_code, ends in ((0, True), (1, True), (4, False), (5, False), (7, False), (143, False)):
        scene.killed(loses_its_disk=True)
        scene.ended = {number: WorkerEnd(exit_code) for number in (0, 1)}
        scene.start()
        assert None is scene.coordinator.ends
        scene.now += LEASE_SECONDS + 1
        scene.coordinator.look_after()
        assert ends == (scene.coordinator.ends is not None), exit_code


@pytest.mark.parametrize("dies_again", [False, True])
def test_without_its_disk_a_shard_without_money_is_awaited_only_so_long(scene: Scene, dies_again: bool):
    """Nobody starts it again that has ended with exit code 4, if no cap was raised; who asks in time is here."""
    for number, name in enumerate(("one", "two")):
        Owned(scene.places[number], name).ends()
    scene.ended = {0: WorkerEnd(4, message="no room"), 1: WorkerEnd(4, message="no room")}
    scene.killed(loses_its_disk=True)
    scene.start()
    scene.now += LEASE_SECONDS + LATE_SECONDS
    scene.coordinator.look_after()
    if dies_again:
        scene.killed()
        scene.start()
    Owned(scene.places[1], "another")
    assert scene.grant(1, "another") is not None
    scene.now += AWAITED_SECONDS
    scene.coordinator.look_after()
    assert [True, False] == scene.coordinator.over
    assert [
        f"shard 1 is not done, as its run directory says; it is waited for, at most {AWAITED_SECONDS:g} s"
    ] == [one for one in scene.said if "shard 1" in one][:1]
    scene.ask(1, "another", Ended({"exit_code": 4, "stop_reason": "no room"}))
    assert scene.coordinator.ends is not None and [4, 4] == [end.exit_code for end in scene.coordinator.ends]


def test_what_stands_in_the_way_of_looking_after_is_kept(scene: Scene):
    """Whoever asks then is told it, as whoever looks on; nothing is given on what was not read."""
    Owned(scene.places[0], "one")
    scene.killed(loses_its_disk=True)
    scene.start()
    scene.now += LEASE_SECONDS + LATE_SECONDS

    def unreadable(number: int) -> int:
        raise RunDamaged("its journal cannot be read")

    scene.committed = unreadable
    with pytest.raises(RunDamaged):
        scene.coordinator.look_after()
    scene.committed = lambda number: 0
    with pytest.raises(RunDamaged):
        scene.grant(0, "one")
    assert isinstance(scene.coordinator.failure, RunDamaged)


def test_who_does_not_ask_keeps_the_part_of_a_shard_by_itself(scene: Scene):
    """A shard that is run without the coordinator may spend its nth part: nobody else is given that."""
    scene.killed(loses_its_disk=True)
    Owned(scene.places[1], "a stranger")
    scene.start()
    scene.now += LEASE_SECONDS + 1
    scene.coordinator.look_after()
    Owned(scene.places[0], "one")
    cap = scene.grant(0, "one", used(None, 0)).max_usd_pico
    scene.now += 1
    cap = max(cap, scene.grant(0, "one", used(cap, cap, waits_for_money=True)).max_usd_pico)
    assert 500 == cap


def test_who_is_no_longer_named_in_its_lock_is_fenced_off(scene: Scene):
    """Another has opened its run directory: it is given nothing more; the other waits for its lease's end."""
    one = Owned(scene.places[0], "one")
    assert scene.grant(0, "one") is not None
    one.ends()
    Owned(scene.places[0], "another")
    scene.now += 1
    (answer,) = scene.ask(0, "one", Reported(WorkerReport()))
    assert answer == Stop(6, "another has taken over shard 1/2; nothing more is sent from here")
    assert None is scene.grant(0, "another")
    scene.now += LEASE_SECONDS - 1
    assert 10 == scene.grant(0, "another").places


def test_a_successor_that_finds_nothing_to_send_has_ended(scene: Scene):
    """Its predecessor died after its last row, before it said so; who is named in the lock says it for both."""
    one = Owned(scene.places[0], "one")
    Owned(scene.places[1], "two")
    assert scene.grant(0, "one") is not None and scene.grant(1, "two") is not None
    one.ends()
    Owned(scene.places[0], "another").ends()
    scene.ask(0, "", Failed(2, "this one never opened it"))
    assert [False, False] == scene.coordinator.over
    scene.ask(0, "another", Ended({"exit_code": 0, "stop_reason": None}))
    assert [True, False] == scene.coordinator.over
    scene.now += 1
    assert 10 >= scene.grant(1, "two", used(500, 0, places=5, share=10**9 // 2)).places
    scene.ask(1, "two", Ended({"exit_code": 0, "stop_reason": None}))
    assert scene.coordinator.ends is not None


def test_an_earlier_word_that_comes_late_changes_nothing(scene: Scene):
    """It would say that less is committed than is."""
    Owned(scene.places[0], "one")
    scene.grant(0, "one", used(None, 0))
    stale = scene.sequence
    scene.grant(0, "one", used(500, 490, places=10, share=10**9))
    assert [] == scene.ask(0, "one", Reported(used(500, 0)), sequence=stale)
    Owned(scene.places[1], "two")
    assert scene.grant(1, "two", used(None, 0)).max_usd_pico <= 510


def test_who_is_cut_off_for_two_leases_loses_its_part_and_comes_back(scene: Scene):
    """Its money becomes what its journal says; its places wait until what it had in flight must have ended."""
    Owned(scene.places[0], "one")
    two = Owned(scene.places[1], "two")
    scene.grant(0, "one", used(None, 0))
    scene.committed = lambda number: (100, 0)[number]
    for _ in range(int(LEASE_SECONDS) + 2):
        scene.now += 1
        scene.coordinator.look_after()
        last = scene.grant(1, "two", used(None, 0))
    assert "shard 1 has not asked for 6 s (one still has its run directory): its part is given on" in scene.said[0]
    assert (0, 450) == (last.places, last.max_usd_pico)
    scene.now = 2 * LEASE_SECONDS
    back = scene.grant(0, "one", used(500, 100, in_flight=4, places=10, share=10**9))
    assert 5 == back.places and back.max_usd_pico <= 1_000 - 450
    two.ends()


def test_places_of_a_process_that_is_gone_are_free_when_its_lease_has_ended(scene: Scene):
    """Nothing of it can be under way from here any more."""
    one = Owned(scene.places[0], "one")
    scene.grant(0, "one")
    one.ends()
    scene.now += LEASE_SECONDS + 1.1
    scene.coordinator.look_after()
    Owned(scene.places[1], "two")
    assert "its process is gone" in scene.said[0] and 10 == scene.grant(1, "two").places


def test_who_has_lost_his_book_gives_nothing_more(scene: Scene):
    """Deleted or moved away, another may be kept in its place: two would give the same money."""
    Owned(scene.places[0], "one")
    assert scene.grant(0, "one") is not None
    shutil.rmtree(scene.folder / "leases")
    with pytest.raises(RunInUse, match="leases was taken away while this coordinator kept its grants there"):
        scene.grant(0, "one", used(None, 7))


def test_who_was_not_heard_when_it_was_done_is_not_waited_for(scene: Scene):
    """All rows are done, as its run directory says: nobody would start it again. Else it is waited for."""
    ends = WorkerEnd(4, message="no room"), WorkerEnd(1)
    for number, end in enumerate(ends):
        owner = Owned(scene.places[number], f"{number}")
        scene.grant(number, f"{number}")
        owner.ends()
        scene.ended[number] = end
    scene.now += LEASE_SECONDS + 1.1
    scene.coordinator.look_after()
    assert [False, True] == scene.coordinator.over and "shard 2 is done, as its run directory says" in scene.said
    assert "its process is gone" in scene.said[0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another count": ({"shard": (1, 3)}, "the coordinator has 2 shards; this is 1/3"),
    "another job": ({"asks": {"model": "other"}}, "the coordinator's job and this worker's differ in model"),
    "another folder": ({"owner": "one"}, "the coordinator sees no run directory of shard 1/2 at "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_is_no_worker_of_this_job_is_told_why(scene: Scene, case: str):
    """And gets nothing; the exit code says that starting it again does not help."""
    changed, says = REFUSED[case]
    (answer,) = scene.ask(0, "", Reported(WorkerReport()), **changed)
    assert answer.exit_code in (2, 6) and answer.reason.startswith(says)


ENDS: dict[str, tuple[int, bool, bool]] = {
    "done": (0, True, False),
    "rows not ok": (1, True, False),
    "its money is used up": (4, True, False),
    "a wrong job": (2, True, True),
    "refused": (3, True, True),
    "the gateway refuses it": (5, True, True),
    "the disk is full": (7, False, False),
    "a bug": (70, False, False),
    "Ctrl-C": (130, False, False),
    "its node goes away": (143, False, False),
}


@pytest.mark.parametrize("case", ENDS)
def test_each_end_of_a_worker_is_one_of_three(scene: Scene, case: str):
    """Ended; ended, and all others with it; or waited for until it is started again. A restart knows it too."""
    exit_code, is_over, ends_all = ENDS[case]
    Owned(scene.places[0], "one")
    Owned(scene.places[1], "two")
    scene.grant(0, "one")
    scene.grant(1, "two")
    message: FromWorker = Ended({"exit_code": exit_code, "stop_reason": "so it is"})
    told = scene.ask(0, "one", message if exit_code < 2 or exit_code == 4 else Failed(exit_code, "so it is"))
    assert ([Stop(exit_code, "so it is")] if ends_all else []) == told
    assert ends_all == (scene.ask(1, "two") == [Stop(exit_code, "so it is")])
    assert scene.coordinator.ends is None
    if not ends_all:
        scene.killed()
        scene.start()
    scene.ask(1, "two", Ended({"exit_code": 0, "stop_reason": None}))
    if is_over and not ends_all:
        scene.killed()
        scene.start()  # all have ended, and nobody will come to say so again
    ends = scene.coordinator.ends
    assert is_over == (ends is not None)
    if ends is not None:
        assert [exit_code, 0] == [end.exit_code for end in ends]
    assert is_over or "it is waited for until it is started again" in scene.said[-1]


def test_a_stop_reaches_who_is_here_and_who_comes(scene: Scene):
    """What is not at work any more is not waited for."""
    Owned(scene.places[0], "one")
    scene.grant(0, "one")
    scene.coordinator.stop(Halt(130, "Ctrl-C"))
    assert [Stop(130, "Ctrl-C")] == scene.ask(0, "one", Reported(WorkerReport()))
    assert scene.coordinator.ends is None
    scene.ask(0, "one", Ended({"exit_code": 130, "stop_reason": "Ctrl-C"}))
    ends = scene.coordinator.ends
    assert ends is not None and [130, 130] == [end.exit_code for end in ends]
    assert [Stop(130, "Ctrl-C")] == scene.ask(1, "")


def test_one_coordinator_keeps_a_jobs_grants(scene: Scene):
    """A second is refused; one whose name is no longer there gives nothing more; in the end nothing is left."""
    with pytest.raises(RunInUse, match="this job has a coordinator already: process"):
        KeptLeases(scene.folder / "leases", started_at="later")
    Owned(scene.places[0], "one")
    scene.grant(0, "one")
    (scene.folder / "leases" / ".lock").write_text("process 7 on elsewhere\n")
    with pytest.raises(RunInUse, match="taken over by process 7 on elsewhere"):
        scene.grant(0, "one", used(500, 200, places=10, share=10**9))


def test_a_coordinator_may_be_the_first_of_its_job(scene: Scene):
    """No folder of runs is needed before it."""
    KeptLeases(scene.folder / "runs" / "of" / "job-leases", started_at="now").close()
    assert (scene.folder / "runs" / "of").is_dir()


def test_an_orderly_end_leaves_no_grants_behind(scene: Scene):
    """The next coordinator begins at once, and waits for all shards; where none was given any, no file is left."""
    assert scene.kept is not None
    KeptLeases(scene.folder / "other", started_at="now").close()
    assert not (scene.folder / "other").exists()
    Owned(scene.places[0], "one")
    scene.grant(0, "one")
    scene.ask(0, "one", Ended({"exit_code": 4, "stop_reason": "no room"}))
    scene.coordinator.close()
    scene.kept.close()
    scene.start()
    assert scene.coordinator.ends is None and 10 == scene.grant(0, "one").places


def test_a_torn_last_grant_is_passed_over_and_damage_is_told(scene: Scene):
    """It was not given: nothing follows from it. Damage before the end is no crash, and says what to do."""
    Owned(scene.places[0], "one")
    file = scene.folder / "leases" / "grants.jsonl"
    scene.grant(0, "one")
    whole = file.read_bytes()
    scene.killed()
    file.write_bytes(whole + b'{"type":"gi')
    scene.start()
    assert scene.kept is not None and 1 == len(scene.kept.given) and whole == file.read_bytes()
    scene.killed()
    file.write_bytes(b"#" + whole + whole)
    with pytest.raises(RunDamaged, match=r"line 1: its checksum does not fit"):
        scene.start()


class Cluster:
    """Workers that die, come again, and are cut off; a coordinator that dies, with and without its disk."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        count, places = self.draw.randint(1, 5), self.draw.randint(5, 30)
        self.cap = self.draw.randint(2_000, 30_000)
        self.deaths, self.cuts = self.draw.choice([0.0, 0.004, 0.02]), self.draw.choice([0.0, 0.004])
        self.workers = [PlayedWorker(n, self.draw.randint(0, 300), self.draw, 0) for n in range(count)]
        self.scene = Scene(folder, count, SharedLimits(places, self.cap))
        self.scene.committed = lambda number: self.workers[number].committed
        self.places, self.count = places, count
        self.owned: list[Owned | None] = [None] * count
        self.comes_at = [self.draw.uniform(0, 4) for _ in range(count)]
        self.cut_until, self.asked_at = [0.0] * count, [float("-inf")] * count
        self.away_until = 0.0
        self.late: list[tuple[float, int]] = []
        self.births = 0

    def run(self, seconds: float) -> None:
        scene = self.scene
        while scene.now < seconds and not all(one.ended for one in self.workers):
            scene.now += STEP_SECONDS
            self._coordinator_lives()
            for worker in self.workers:
                if not worker.ended:
                    self._lives(worker)
            self._hold_the_laws()

    def _coordinator_lives(self) -> None:
        scene, now = self.scene, self.scene.now
        if not self.away_until and self.draw.random() < self.deaths:
            scene.killed(loses_its_disk=self.draw.random() < 0.3)
            self.away_until = now + self.draw.uniform(0, 12)
        elif self.away_until and now >= self.away_until:
            scene.start()
            self.away_until = 0.0
        if now >= self.away_until:
            scene.coordinator.look_after()

    def _lives(self, worker: PlayedWorker) -> None:
        now, number = self.scene.now, worker.number
        owned = self.owned[number]
        if owned is None:
            if now < self.comes_at[number]:
                return
            self.births += 1
            owned = self.owned[number] = Owned(self.scene.places[number], f"process {self.births}")
        if self.draw.random() < self.deaths:
            self._dies(worker)
            return
        if self.draw.random() < self.cuts:
            self.cut_until[number] = now + self.draw.uniform(0, 15)
        worker.live(now, HOLD, 1.0)
        every = 0.2 if worker.waits(now, HOLD) else 1.0
        if now - self.asked_at[number] >= every and now >= max(self.cut_until[number], self.away_until):
            self.asked_at[number] = now
            is_lost = self.draw.random() < 0.05
            self._asks(worker, owned, is_lost=is_lost)
        if worker.ended and now >= max(self.cut_until[number], self.away_until):
            self.scene.ask(number, owned.name, Ended({"exit_code": 0, "stop_reason": None}))
            owned.ends()
        elif worker.ended:
            worker.ended = False  # it has yet to say so

    def _asks(self, worker: PlayedWorker, owned: Owned, *, is_lost: bool) -> None:
        report = worker.report(self.scene.now, HOLD)
        grant = self.scene.grant(worker.number, owned.name, report)
        if grant is not None and not is_lost:
            worker.floor, worker.grant = worker.committed, grant

    def _dies(self, worker: PlayedWorker) -> None:
        until = 0.0 if worker.grant is None else worker.grant.until
        self.late.append((until, len(worker.flying)))
        worker.spent, worker.flying, worker.grant = worker.committed, [], None
        owned = self.owned[worker.number]
        assert owned is not None
        owned.ends()
        self.owned[worker.number] = None
        self.comes_at[worker.number] = self.scene.now + self.draw.uniform(0, 9)

    def _hold_the_laws(self) -> None:
        now = self.scene.now
        late = sum(flying for until, flying in self.late if until > now)
        assert sum(len(one.flying) for one in self.workers) + late <= self.places
        assert sum(one.committed for one in self.workers) <= self.cap


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_no_death_and_no_silence_gives_anything_twice(seed: int):
    """Money and places hold at every moment, whoever dies, is cut off or is lost, the coordinator's disk too."""
    with tempfile.TemporaryDirectory(prefix="crun-batch-coordinator-") as folder:
        Cluster(Path(folder), seed).run(40)
