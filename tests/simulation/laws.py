"""What must hold of a job that was killed and started again: each broken law is a sentence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.store.verify import verify

from .play import BILLED, FINISHED, Row, Scenario, Stage, drawn, play

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
    died_in: Counter[str] = Counter()
    """The kills by the disk operation that they came before, within or after."""
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
    undivided = structs.replace(scenario, segment_bytes=scenario.calm_segment_bytes)
    calm = play(undivided, folder / "calm", kills=())
    harried = play(scenario, folder / "harried", kills=scenario.kills, digests=calm.digests)
    stages = (calm, harried)
    laws = (_books_agree, _budget_kept, _bounded, _costs_have_a_source)
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
        died_in=Counter(" ".join(death.split()[:2]) for death in harried.played.deaths),
        posts=sum(stage.world.posts for stage in stages),
        virtual_seconds=sum(stage.played.seconds for stage in stages),
    )


def _same_results(calm: Stage, harried: Stage) -> Iterator[str]:
    """Interrupted and resumed = uninterrupted; where a budget ended either, what both have is the same."""
    key = calm.scenario.key
    expected = {_unit(row, key): row for row in calm.results}
    found = {_unit(row, key): row for row in harried.results}
    if len(found) < len(harried.results) or len(expected) < len(calm.results):
        yield "a unit has two results"
    if _has_finished(calm) != _has_finished(harried) and calm.scenario.max_cost_credits is None:
        yield f"one has finished, the other not: {calm.played.exit_codes} and {harried.played.exit_codes}"
    if _has_finished(calm) and _has_finished(harried) and expected.keys() != found.keys():
        yield f"{len(found)} results, uninterrupted {len(expected)}"
    units = expected.keys() & found.keys()
    ends, ends_found = _ends(calm.attempts, units, key), _ends(harried.attempts, units, key)
    left_open = {unit for unit in units if _was_left_open(harried, ends[unit], ends_found[unit])}
    for unit in units - left_open:
        was, now = _comparable(expected[unit]), _comparable(found[unit])
        differing = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
        yield from (f"{name} of {unit} differs: {was.get(name)!r}, {now.get(name)!r}" for name in differing)
    differing_ends = {unit: (ends[unit], ends_found[unit]) for unit in units - left_open}
    differing_ends = {unit: both for unit, both in differing_ends.items() if both[0] != both[1]}
    if differing_ends:
        yield f"attempts differ: {differing_ends}"


def _was_left_open(stage: Stage, ends: tuple[str, ...], found: tuple[str, ...]) -> bool:
    """Whether a session that reached nothing (exit 5) left the unit open, where it would have ended otherwise.

    Then it is asked again although its retries after unknown outcomes (`max_unknown_retries`) are used up, and
    that is right: where nothing has ever answered, a connection that is lost after sending says more about the way
    (http to a port that speaks TLS, a proxy that drops what it does not like) than about the row, and a final
    error would leave a hole that no later start fills. It is no retry of ours: the session has ended and said why,
    and somebody has started the next one. What it may cost is bounded as any unknown outcome is (`_books_agree`),
    and such a start risks each unit once more and not twice: the count of its retries goes on from where it was.
    A session may have been killed on its way to that exit.
    """
    may_have_reached_nothing = [code for code in stage.played.exit_codes if code in (EXIT_GATEWAY_REFUSED, None)]
    further = found[len(ends) :]
    asked_again = sum(" unknown " in end for end in further) <= len(may_have_reached_nothing)
    is_about_the_way = any(" not_sent " in end or end.endswith((" connection", " bad_reply")) for end in ends[-1:])
    return bool(further) and is_about_the_way and ends == found[: len(ends)] and asked_again


def _unit(row: Row, key: str) -> tuple[Any, ...]:
    return row[key], row["variant"], row["repeat"]


def _comparable(row: Row) -> Row:
    """What must be the same; a cost that is unknown counts as none, as kills and storms may add such attempts.

    Where there is none, neither does it matter who says so.
    """
    costs = {name: row[name] or 0 for name in ("cost_usd", "cost_credits")}
    source = row["cost_source"] if any(costs.values()) else None
    same = {name: value for name, value in row.items() if name not in TIMES + COUNTS_OF_ATTEMPTS}
    return {**same, **costs, "cost_source": source}


def _costs_have_a_source(stage: Stage) -> Iterator[str]:
    """Who says what a result cost is told beside it, whichever of its attempts came last."""
    for row in stage.results:
        is_known = row["cost_usd"] is not None or row["cost_credits"] is not None
        if is_known and row["cost_source"] is None:
            yield f"nobody says what {_unit(row, stage.scenario.key)} cost"


def _has_finished(stage: Stage) -> bool:
    return stage.played.exit_codes[-1] in FINISHED


def _ends(attempts: list[Row], units: set[Any], key: str) -> dict[Any, tuple[str, ...]]:
    """For each unit the ends of its attempts, without what our kills and refusals for lack of room added."""
    ends: dict[Any, list[str]] = {unit: [] for unit in units}
    for row in sorted(attempts, key=lambda row: row["serial"]):
        kind, status = row["error_kind"], row["http_status"]
        if _unit(row, key) in units and kind != "unknown_outcome" and str(status) not in UNCOUNTED:
            ends[_unit(row, key)].append(f"{status} {row['outcome']} {kind}")
    return {unit: tuple(found) for unit, found in ends.items()}


def _books_agree(stage: Stage) -> Iterator[str]:
    """known <= bill <= known + held of the unknown; and so for each request."""
    bill = stage.world.gateway.ledger.charged_pico
    known, held = _known_and_held(stage)
    lost = stage.played.lost_starts
    if not known <= bill or (bill > known + held and not lost):
        yield f"bill {bill}, known {known}, held {held}"
    done = _count(stage, "done")
    maybe = done + _count(stage, "unknown")
    for request, charges in stage.world.gateway.charged.items():
        if charges > maybe[request] + lost:
            yield f"a request was charged {charges} times, its attempts admit {maybe[request]}"
    for request, count in done.items():
        if count > stage.world.gateway.charged[request]:
            yield f"a request was done {count} times, and charged {stage.world.gateway.charged[request]} times"
    if not stage.played.deaths:
        sent = sum(row["outcome"] != "not_sent" for row in stage.attempts)
        if stage.world.posts != sent:
            yield f"{stage.world.posts} POSTs, {sent} attempts that were sent"
        billed = sum(rate for kind, rate in stage.scenario.faults.shares.items() if kind in BILLED)
        if not billed and bill != known:
            yield f"nothing is unknown, and yet: bill {bill}, known {known}"


def _known_and_held(stage: Stage) -> tuple[int, int]:
    """Pico: what the attempts are known to have cost, and what those of unknown outcome may have."""
    known = sum(row["cost_credits"] or 0 for row in stage.attempts)
    held = sum(row["held_credits"] or 0 for row in stage.attempts if row["outcome"] == "unknown")
    return int(known * 10**12), int(held * 10**12)


def _count(stage: Stage, outcome: str) -> Counter[bytes]:
    return Counter(stage.digests[row["request_hash"]] for row in stage.attempts if row["outcome"] == outcome)


def _nothing_lost(stage: Stage) -> Iterator[str]:
    """Every end that was on the disk at a kill is an attempt, byte for byte."""
    if not stage.played.deaths and any(row["error_kind"] == "unknown_outcome" for row in stage.attempts):
        yield "nothing was killed, and yet a reply was not waited for"
    kept = {row["serial"]: row for row in stage.attempts}
    if len(kept) < len(stage.attempts):
        yield "two attempts have one serial"
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
    known, held = _known_and_held(stage)
    if known + held > cap:
        yield f"spent {known} and held {held} of {cap}"
    if stage.world.gateway.ledger.charged_pico > cap and not stage.played.lost_starts:
        yield f"billed {stage.world.gateway.ledger.charged_pico} of {cap}"


def _bounded(stage: Stage) -> Iterator[str]:
    if stage.world.most_in_flight > stage.scenario.concurrency:
        yield f"{stage.world.most_in_flight} in flight, {stage.scenario.concurrency} allowed"
