"""The shards that are to become one run: opened, looked at, and refused with all that stands in the way at once.

Owns the judgement whether these run directories are all parts of one job, each once, none missing, none damaged.
Nothing is sent; a journal that a kill has torn is brought in order, as the next session would do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.console.amounts import counted, noun_of
from crun_batch.errors import InputError, RunDamaged, RunDirectoryError
from crun_batch.pricing.account import Account
from crun_batch.state.batched import uncollected
from crun_batch.state.ownership import shard_of
from crun_batch.state.recovery import account_now, recover_journal
from crun_batch.state.summary import RUNNING, with_units
from crun_batch.store.batches import read_batches
from crun_batch.store.directory import RunDirectory, open_directory, read_json
from crun_batch.store.merging import CopiedRun
from crun_batch.store.schema import schema_from_document
from crun_batch.store.verify import verify

SHOWN = 3


class ShardRun(Struct, frozen=True):
    """A shard's run directory, locked, with what it says of itself."""

    path: Path
    number: int
    count: int
    divided_by: Any
    document: Mapping[str, Any]
    summary: Mapping[str, Any]
    source: CopiedRun
    account: Account

    @property
    def open_units(self) -> int:
        """Units of its rows that have no final result."""
        return max(0, int(self.summary["units"]["total"]) - sum(self.account.totals().statuses.values()))

    @property
    def is_cut_off(self) -> bool:
        """Whether requests were in flight, or replies unread, when its process ended."""
        return bool(self.source.recovered.in_flight or self.source.recovered.unread)

    def __str__(self) -> str:
        return f"{self.path} (shard {self.number}/{self.count})"


def open_shards(paths: Sequence[Path], stack: ExitStack, *, started_at: str, unfinished: bool) -> list[ShardRun]:
    """The shards in their order, locked until the stack is closed.

    Raises InputError (no run there), RunInUse, RunDamaged, and RunDirectoryError with everything that is wrong
    with them together. `unfinished`: those with open rows, and those that were killed, may be among them.
    """
    twice = sorted({str(path) for path in paths if [one.resolve() for one in paths].count(path.resolve()) > 1})
    if twice:
        raise InputError(f"named more than once: {', '.join(twice)}")
    for path in paths:
        _refuse_no_shard(path)
    for path in paths:
        _refuse_damage(path)
    shards = [_opened(path, stack, started_at) for path in paths]
    complaints = [*_of_other_jobs(shards), *_not_each_once(shards)]
    complaints += [] if unfinished else _not_finished(shards)
    if complaints:
        advice = "" if unfinished or not _only_open(shards, complaints) else "--unfinished merges what is there."
        raise RunDirectoryError("\n".join(complaints), advice=advice)
    return sorted(shards, key=lambda shard: shard.number)


def _refuse_no_shard(path: Path) -> None:
    run = RunDirectory(path)
    if not (run.has_journal and run.has_job and run.has_summary):
        raise InputError(f"{path}: there is no run here that could be merged")
    if shard_of(read_json(run.job)) is None:
        raise RunDirectoryError(
            f"{path} holds all rows of its job: it is no shard, and there is nothing to merge it with",
            advice="`crun-batch run JOB --shard 1/4` makes shards; `compare` sets whole runs side by side.",
        )
    out = uncollected(read_batches(run).values())
    if out:
        raise RunDirectoryError(
            f"{path}: {counted(len(out), 'batch')} not collected: those replies would be lost to the merged run",
            advice="Run the shard again, which collects them (crun-batch cancel ends them sooner), then merge.",
        )


def _refuse_damage(path: Path) -> None:
    damage = [finding for finding in verify(path, data=True) if finding.severity == "error"]
    if damage:
        told = "; ".join(f"{one.file}: {one.what}" for one in damage[:SHOWN])
        more = f"; and {len(damage) - SHOWN} more" if len(damage) > SHOWN else ""
        raise RunDamaged(
            f"{path} is damaged: {told}{more}",
            advice="Nothing was merged. Restore its files from a copy; `verify --data` lists all damage.",
        )


def _opened(path: Path, stack: ExitStack, started_at: str) -> ShardRun:
    run = open_directory(path, started_at=started_at)
    stack.callback(run.close)
    document = read_json(run.job)
    recovered = recover_journal(run, schema_from_document(document["run_schema"]))
    if recovered is None:
        raise InputError(f"{path}: there is no run here that could be merged (its journal is empty)")
    shard = shard_of(document) or {}
    return ShardRun(
        path=path,
        number=shard["number"],
        count=shard["count"],
        divided_by=shard["by"],
        document=document,
        summary=with_units(read_json(run.summary)),
        source=CopiedRun(run, recovered),
        account=account_now(run),
    )


def _of_other_jobs(shards: Sequence[ShardRun]) -> Iterator[str]:
    """Each that does not belong with the first, and why."""
    first, *others = shards
    for other in others:
        ways = [way for way, (mine, theirs) in _told_apart(first, other).items() if mine != theirs]
        if ways:
            yield f"{other} does not belong with {first}: {'; '.join(ways)}"
    for shard in shards:
        if shard.document.get("repricing"):
            yield f"{shard}: a change of its prices was cut off in the middle; start it again, then merge"


def _told_apart(first: ShardRun, other: ShardRun) -> dict[str, tuple[Any, Any]]:
    """What must be the same in both: what it means when it is not -> its value here and there."""
    (a, b), (mine, theirs) = (first.document, other.document), (first.document["job"], other.document["job"])
    fingerprints = a["fingerprint"], b["fingerprint"]
    return {
        f"its job is {theirs['name']!r}, not {mine['name']!r}": (mine["name"], theirs["name"]),
        f"it is one of {other.count} shards, not of {first.count}": (first.count, other.count),
        "its rows were divided in another way (share_identical)": (first.divided_by, other.divided_by),
        "its requests are others (model, prompt, params, sweep)": _parts(fingerprints, "requests"),
        "its table has another content": _parts(fingerprints, "table"),
        "its repeats are others": (mine["repeats"], theirs["repeats"]),
        "its scores are others": (mine["score"], theirs["score"]),
        "its columns are others": (a["run_schema"], b["run_schema"]),
    }


def _parts(documents: tuple[Mapping[str, Any], Mapping[str, Any]], key: str) -> tuple[Any, Any]:
    return documents[0].get(key), documents[1].get(key)


def _not_each_once(shards: Sequence[ShardRun]) -> Iterator[str]:
    """Shards that are there twice, and those that are missing."""
    count = shards[0].count
    by_number: dict[int, list[ShardRun]] = {}
    for shard in shards:
        if shard.count == count:
            by_number.setdefault(shard.number, []).append(shard)
    for number, found in sorted(by_number.items()):
        if len(found) > 1:
            places = ", ".join(str(one.path) for one in found)
            yield f"shard {number}/{count} is there {len(found)} times: {places}"
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in by_number]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        yield (
            f"missing: shard {', '.join(missing[:SHOWN])}{more}; run it "
            f"(`crun-batch run JOB --shard {missing[0]}`), or name its directory"
        )


def _not_finished(shards: Sequence[ShardRun]) -> Iterator[str]:
    for shard in shards:
        was_killed = shard.is_cut_off or shard.summary["status"] == RUNNING.status
        if shard.open_units or was_killed:
            total, noun = shard.summary["units"]["total"], noun_of(shard.summary["units_per_row"])
            what = "was killed" if was_killed else f"has {shard.open_units:,} of {counted(total, noun)} open"
            yield f"{shard} {what}; start it again to finish it"


def _only_open(shards: Sequence[ShardRun], complaints: Sequence[str]) -> bool:
    return len(complaints) == len(list(_not_finished(shards)))
