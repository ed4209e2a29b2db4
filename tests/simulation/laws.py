"""What must hold of a job that was killed and started again: each broken law is a sentence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import polars as pl
from msgspec import Struct

from crun_batch.store.verify import verify

from .play import BILLED, FINISHED, Scenario, Stage, drawn, play

TIMES = ("latency_seconds", "started_at", "finished_at")
COUNTS_OF_ATTEMPTS = ("attempt_count", "unknown_attempts")
VERIFIED_EVERY = 5
"""`verify` takes longer than all else: every so many seeds."""
UNCOUNTED = ("429", "503", "529")


class Verdict(Struct, frozen=True):
    """What a seed came to."""

    broken: list[str]
    sessions: int = 0
    kills: int = 0
    posts: int = 0
    virtual_seconds: float = 0.0


def judge_seed(seed: int, folder: Path) -> Verdict:
    """Play a seed's scenario and hold it against the laws."""
    return judge(drawn(seed), folder)


def broken_laws(scenario: Scenario, folder: Path) -> list[str]:
    """Every law that a scenario breaks, in words."""
    return judge(scenario, folder).broken


def judge(scenario: Scenario, folder: Path) -> Verdict:
    """Play the scenario twice, with and without its kills."""
    calm = play(scenario, folder / "calm", kills=())
    harried = play(scenario, folder / "harried", kills=scenario.kills, digests=calm.digests)
    stages = (calm, harried)
    laws = (_books_agree, _budget_kept, _bounded)
    broken = [
        *_same_results(calm, harried),
        *_nothing_lost(harried),
        *_files_are_sound(harried),
        *(sentence for law in laws for stage in stages for sentence in law(stage)),
    ]
    return Verdict(
        broken,
        sessions=sum(len(stage.played.exit_codes) for stage in stages),
        kills=len(harried.played.deaths),
        posts=sum(stage.world.posts for stage in stages),
        virtual_seconds=sum(stage.played.seconds for stage in stages),
    )


def _same_results(calm: Stage, harried: Stage) -> Iterator[str]:
    """Interrupted and resumed = uninterrupted; where a budget ended either, what both have is the same."""
    key = calm.scenario.key
    expected, attempts = calm.frames()
    found, attempts_found = harried.frames()
    if found[key].is_duplicated().any():
        yield "a unit has two results"
    if _has_finished(calm) != _has_finished(harried) and calm.scenario.max_cost_credits is None:
        yield f"one has finished, the other not: {calm.played.exit_codes} and {harried.played.exit_codes}"
    if _has_finished(calm) and _has_finished(harried) and expected.height != found.height:
        yield f"{found.height} results, uninterrupted {expected.height}"
    both = expected.join(found, on=key, how="semi").sort(key)
    same = found.join(expected, on=key, how="semi").sort(key)
    for name in both.columns:
        if name.startswith("cost_"):
            both, same = both.with_columns(pl.col(name).fill_null(0)), same.with_columns(pl.col(name).fill_null(0))
        if name not in TIMES + COUNTS_OF_ATTEMPTS and not both[name].equals(same[name]):
            pairs = both.select(key, name, was=same[name]).filter(pl.col(name).ne_missing(pl.col("was")))
            yield f"{name} differs: {pairs.rows()[:3]}"
    units = set(both[key].to_list())
    if _ends(attempts, units, key) != _ends(attempts_found, units, key):
        yield f"attempts differ: {_ends(attempts, units, key) ^ _ends(attempts_found, units, key)}"


def _has_finished(stage: Stage) -> bool:
    return stage.played.exit_codes[-1] in FINISHED


def _ends(attempts: pl.DataFrame, units: set[str], key: str) -> set[tuple[str, tuple[str, ...]]]:
    """For each unit the ends of its attempts, without what our kills and refusals for lack of room added."""
    ends: dict[str, list[str]] = {unit: [] for unit in units}
    for unit, kind, status, outcome in (
        attempts.sort("serial").select(key, "error_kind", "http_status", "outcome").iter_rows()
    ):
        if unit in units and kind != "unknown_outcome" and str(status) not in UNCOUNTED:
            ends[unit].append(f"{status} {outcome} {kind}")
    return {(unit, tuple(found)) for unit, found in ends.items()}


def _books_agree(stage: Stage) -> Iterator[str]:
    """known <= bill <= known + held of the unknown; and so for each request."""
    _, attempts = stage.frames()
    bill = Decimal(stage.world.gateway.ledger.charged_pico)
    known = (attempts["cost_credits"].sum() or 0) * 10**12
    held = (attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or 0) * 10**12
    lost = stage.played.lost_starts
    if not known <= bill or (bill > known + held and not lost):
        yield f"bill {bill}, known {known}, held {held}"
    done = _count(stage, attempts.filter(pl.col("outcome") == "done"))
    maybe = _count(stage, attempts.filter(pl.col("outcome").is_in(["done", "unknown"])))
    for request, charges in stage.world.gateway.charged.items():
        if charges > maybe[request] + lost:
            yield f"a request was charged {charges} times, its attempts admit {maybe[request]}"
    for request, count in done.items():
        if count > stage.world.gateway.charged[request]:
            yield f"a request was done {count} times, and charged {stage.world.gateway.charged[request]} times"
    if not stage.played.deaths:
        sent = attempts.filter(pl.col("outcome") != "not_sent").height
        if stage.world.posts != sent:
            yield f"{stage.world.posts} POSTs, {sent} attempts that were sent"
        billed = sum(rate for kind, rate in stage.scenario.faults.shares.items() if kind in BILLED)
        if not billed and bill != known:
            yield f"nothing is unknown, and yet: bill {bill}, known {known}"


def _count(stage: Stage, attempts: pl.DataFrame) -> Counter[bytes]:
    return Counter(stage.digests[request] for request in attempts["request_hash"].to_list())


def _nothing_lost(stage: Stage) -> Iterator[str]:
    """Every end that was on the disk at a kill is an attempt, byte for byte."""
    _, attempts = stage.frames()
    if not stage.played.deaths and (attempts["error_kind"] == "unknown_outcome").any():
        yield "nothing was killed, and yet a reply was not waited for"
    bodies = attempts.select("serial", "reply_body", "reply_base64")
    kept = {row["serial"]: row for row in bodies.iter_rows(named=True)}
    for serial, digest in stage.played.recorded.items():
        row = kept.get(serial)
        if row is None:
            yield f"the reply of attempt {serial} is lost"
        elif row["reply_base64"] is None and hashlib.sha256((row["reply_body"] or "").encode()).digest() != digest:
            yield f"the reply of attempt {serial} is another"


def _files_are_sound(stage: Stage) -> Iterator[str]:
    if stage.scenario.seed % VERIFIED_EVERY:
        return
    for finding in verify(stage.played.folder, data=True):
        if finding.severity == "error":
            yield f"verify: {finding.file}: {finding.what}"


def _budget_kept(stage: Stage) -> Iterator[str]:
    if stage.scenario.max_cost_credits is None:
        return
    cap = int(Decimal(stage.scenario.max_cost_credits) * 10**12)
    _, attempts = stage.frames()
    known = int((attempts["cost_credits"].sum() or 0) * 10**12)
    held = int((attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or 0) * 10**12)
    if known + held > cap:
        yield f"spent {known} and held {held} of {cap}"
    if stage.world.gateway.ledger.charged_pico > cap and not stage.played.lost_starts:
        yield f"billed {stage.world.gateway.ledger.charged_pico} of {cap}"


def _bounded(stage: Stage) -> Iterator[str]:
    if stage.world.most_in_flight > stage.scenario.concurrency:
        yield f"{stage.world.most_in_flight} in flight, {stage.scenario.concurrency} allowed"
