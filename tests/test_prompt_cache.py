"""The laws of prompt caching: hints change no answer, one request goes ahead, a write has a price."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from bill_kit import MODEL, PRICE, Bench, sums_of_attempts
from run_kit import wait_until

from crun_batch import RefusedToStart, check, report
from crun_batch.load.job.job import Job
from crun_batch.records import Row, Ticket, Unit
from crun_batch.session.warming import Warming
from crun_batch.simulator import SimulatorProcess
from crun_batch.workload.caching import hints_of, keys_needed
from crun_batch.workload.loading import load_workload

LONG = "Weigh every word of the customer, and answer in the tone of the house. " * 90
NO_WRITE = {key: value for key, value in PRICE.items() if key != "cache_write_per_mtok"}


def bodies(protocol: str, model: str, cache: str, **keys: Any) -> list[dict[str, Any]]:
    """The requests of three rows."""
    prompt = {"system": "Be brief.", "user": "{{ text }}", "cache": cache, **keys.pop("prompt", {})}
    prompt = {key: value for key, value in prompt.items() if value is not None}
    made = Job(
        model=model,
        prompt=prompt,
        endpoint={"base_url": "https://gate.test/v1", "protocol": protocol},
        params={"max_output_tokens": 9},
        **keys,
    )
    workload = load_workload(made, pl.DataFrame({"text": ["a", "b", "c"]}))
    rows = [row for batch in workload.table.rows(workload.columns) for row in batch]
    [variant] = workload.variants
    return [orjson.loads(variant.request(row).body) for row in rows]


def hashes(protocol: str, model: str, cache: str, **keys: Any) -> list[str]:
    """The hashes of the same three."""
    made = Job(
        model=model,
        prompt={"system": "Be brief.", "user": "{{ text }}", "cache": cache, **keys},
        endpoint={"base_url": "https://gate.test/v1", "protocol": protocol},
        params={"max_output_tokens": 9},
    )
    workload = load_workload(made, pl.DataFrame({"text": ["a", "b", "c"]}))
    [variant] = workload.variants
    return [variant.request(row).unit_hash for batch in workload.table.rows(workload.columns) for row in batch]


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_a_key_stands_beside_the_body(protocol: str) -> None:
    """Spread over as many keys as the rate asks for; what is the same without it is the rest of the body."""
    limits = {"requests_per_minute": 30}
    plain = bodies(protocol, "gpt-5.4", "off", limits=limits)
    keyed = bodies(protocol, "gpt-5.4", "auto", limits=limits)
    keys = [body.pop("prompt_cache_key") for body in keyed]
    assert plain == keyed
    assert keys[0] == keys[2] != keys[1]
    assert ["team-0", "team-1", "team-0"] == [
        body["prompt_cache_key"] for body in bodies(protocol, "gpt-5.4", "team", limits=limits)
    ]


@pytest.mark.parametrize(
    ("protocol", "model"), [("messages", "claude-sonnet-4-5"), ("chat", "anthropic/claude-sonnet-4-5")]
)
def test_a_marker_stands_behind_what_all_rows_share(protocol: str, model: str) -> None:
    """At the end of the last message without a template, and nowhere else."""
    body = bodies(protocol, model, "auto")[0]
    system = body["system"] if protocol == "messages" else body["messages"][0]["content"]
    assert [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}] == system
    assert 1 == json.dumps(body).count("cache_control")
    shots = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "{{ text }}?"},
    ]
    body = bodies(protocol, model, "auto", prompt={"system": None, "user": None, "messages": shots})[0]
    assert "cache_control" in json.dumps(body["messages"][-2])
    assert 1 == json.dumps(body).count("cache_control")


def test_what_varies_is_not_marked() -> None:
    """A system prompt of each row's own: a marker there would write a cache that nobody reads."""
    body = bodies("messages", "claude-sonnet-4-5", "auto", prompt={"system": "Be {{ text }}."})[0]
    assert "cache_control" not in json.dumps(body)


@pytest.mark.parametrize(
    ("protocol", "model"), [("chat", "gpt-5.4"), ("responses", "gpt-5.4"), ("messages", "claude-sonnet-4-5")]
)
def test_hints_are_no_part_of_what_is_asked(protocol: str, model: str) -> None:
    """A run may switch them on, off, or spread them otherwise: the same hashes, for resume and reuse."""
    off = hashes(protocol, model, "off")
    assert off == hashes(protocol, model, "auto") == hashes(protocol, model, "team")
    turns: dict[str, Any] = {"system": "Be brief.", "turns": ["{{ text }}", "and?"]}
    made = [
        Job(
            model=model,
            prompt={**turns, "cache": cache},
            params={"max_output_tokens": 9},
            endpoint={"base_url": "https://gate.test/v1", "protocol": protocol},
        ).request_fingerprint()
        for cache in ("off", "auto")
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("limits", "keys"),
    [
        ({"concurrency": 64}, 64),
        ({"requests_per_minute": 600, "concurrency": 64}, 40),
        ({"requests_per_minute": 10}, 1),
        ({"requests_per_minute": 16}, 2),
        ({"requests_per_minute": 6000, "concurrency": 8}, 8),
    ],
)
def test_no_key_is_asked_for_too_often(limits: dict[str, int], keys: int) -> None:
    """At most 15 a minute each; never more than are in flight at once."""
    made = Job(model="gpt-5.4", prompt={"user": "x"}, limits=limits, endpoint={"base_url": "https://gate.test/v1"})
    assert keys == keys_needed(made)


@pytest.mark.parametrize("keys", [{"protocol": "completions"}, {"protocol": "chat"}])
def test_off_asks_for_nothing(keys: dict[str, str]) -> None:
    """Neither does a protocol without a field for it."""
    cache = "auto" if keys["protocol"] == "completions" else "off"
    endpoint = {"base_url": "https://gate.test/v1", **keys}
    made = Job(model="gpt-5.4", prompt={"user": "x", "cache": cache}, endpoint=endpoint)
    assert None is hints_of(made, 1)


def ticket(number: int, prefix: str | None, variant: int = 0) -> Ticket:
    return Ticket(Unit(number, number, variant, 0), Row(number, number, {}), b"", "", prefix=prefix)


def test_one_goes_ahead_of_each_prefix() -> None:
    """The others wait for its end, whatever that is, and then go in their order."""
    woken: list[int] = []
    warming = Warming(lambda: woken.append(1))
    first, second, third, other, free = (
        ticket(0, "a"),
        ticket(1, "a"),
        ticket(2, "a", 1),
        ticket(3, "b"),
        ticket(4, None),
    )
    assert [True, False, False, True, True] == [warming.admits(one) for one in (first, second, third, other, free)]
    assert (2, None) == (warming.holds, warming.ready())
    warming.answered(free)
    warming.answered(first)
    assert [1] == woken
    assert [second, third, None] == [warming.ready() for _ in range(3)]
    assert warming.admits(ticket(5, "a"))
    assert 0 == warming.holds


def test_who_waits_for_a_variant_that_is_set_aside_is_dropped() -> None:
    """Nobody would ever release it."""
    warming = Warming(lambda: None)
    for one in (ticket(0, "a"), ticket(1, "a"), ticket(2, "a", 1)):
        warming.admits(one)
    warming.drop(0)
    assert 1 == warming.holds
    warming.answered(ticket(0, "a"))
    assert [2, None] == [None if one is None else one.unit.position for one in (warming.ready(), warming.ready())]


@pytest.mark.parametrize(("protocol", "limits"), [("messages", {}), ("chat", {"requests_per_minute": 60_000})])
def test_a_cached_run_is_billed_to_the_last_digit(
    simulator: SimulatorProcess, tmp_path: Path, protocol: str, limits: dict[str, int]
) -> None:
    """One request warms each prefix and key, then the others go; every row is answered, the ledger agrees."""
    simulator.change(latency_seconds=0.05, cached_share=1.0)
    bench = Bench(
        tmp_path,
        simulator,
        rows=60,
        prompt={"system": LONG, "cache": "auto"},
        endpoint={"protocol": protocol},
        limits={**limits, "concurrency": 4},
    )
    run = bench.run()
    assert 60 == run.summary["rows"]["ok"] + run.summary["rows"]["truncated"]
    assert {bench.charged} == {run.cost_credits} | sums_of_attempts(run)
    keys = 1 if protocol == "messages" else 4
    times = run.sql(
        "select epoch_us(started_at) as began, epoch_us(finished_at) as ended from attempts order by serial"
    )
    ended = times["ended"].to_pylist()
    later = times["began"].to_pylist()[keys:]
    assert min(ended[:keys]) <= min(later)
    said = report(run).text()
    assert "of the input was read from the provider's cache, " in said
    assert "which saved" in said


def test_a_kill_in_the_middle_changes_nothing(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Those who waited for a warm cache are open, and are asked by the next session; caching may be off then."""
    simulator.change(latency_seconds=0.05, cached_share=1.0)
    bench = Bench(
        tmp_path, simulator, rows=80, prompt={"system": LONG, "cache": "auto"}, endpoint={"protocol": "messages"}
    )
    process = bench.start()
    wait_until(lambda: bench.answered > 12)
    process.kill()
    process.communicate()
    bench.write(prompt={"cache": "off"})
    run = bench.run()
    assert 80 == run.results().collect().height
    bill = run.summary["bill_credits"]
    assert Decimal(bill["low"]) <= bench.charged <= Decimal(bill["high"])
    assert [] == run.verify(data=True)


def test_a_marker_needs_the_price_of_a_write(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Refused before anything is sent, by estimate too; without a marker, or with the price, it starts."""
    bench = Bench(
        tmp_path,
        simulator,
        rows=3,
        prompt={"system": LONG, "cache": "auto"},
        endpoint={"protocol": "messages"},
        prices={"models": {MODEL: NO_WRITE}},
    )
    estimated = bench.estimate()
    assert not estimated["may_start"]
    assert any("cache_write_per_mtok" in says for says in estimated["checks"])
    with pytest.raises(RefusedToStart, match="cache_write_per_mtok"):
        bench.run()
    assert 0 == bench.answered
    bench.write(prompt={"cache": "off"})
    assert bench.estimate()["may_start"]
    bench.write(prompt={"cache": "auto"}, prices={"models": {MODEL: PRICE}})
    assert 0 == bench.run().exit_code


def test_a_prefix_that_changes_per_row_is_said_so(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """By check and by estimate; a long one that is the same for all is not."""
    bench = Bench(tmp_path, simulator, rows=5, prompt={"system": "{{ text }} " + LONG, "cache": "auto"})
    told = [*check(bench.job_file, environ={})["warnings"], *bench.estimate()["notes"]]
    assert 2 == sum("prompt.cache keeps nothing" in says for says in told)
    bench.write(prompt={"system": LONG * 4})
    assert not any(
        "keeps nothing" in says for says in [*check(bench.job_file)["warnings"], *bench.estimate()["notes"]]
    )


def test_prefixes_go_one_after_another(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Variants with prompts of their own take turns in blocks, not row by row."""
    systems = {"kind": {"prompt": {"system": LONG}}, "strict": {"prompt": {"system": "No. " + LONG}}}
    bench = Bench(
        tmp_path,
        simulator,
        rows=12,
        prompt={"system": "", "cache": "auto"},
        endpoint={"protocol": "messages"},
        sweep={"tone": systems},
        limits={"concurrency": 1},
    )
    run = bench.run()
    asked = run.sql("select variant from attempts order by serial")["variant"].to_pylist()
    changes = sum(one != other for one, other in pairwise(asked))
    assert changes <= 3
