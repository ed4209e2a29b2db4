"""Laws of packing: several rows in one request, each with its own answer, cost and record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.errors import InputError, RefusedToStart
from crun_batch.records import Cost, Hold, PackPlace, Usage, is_missing
from crun_batch.simulator.settings import Model
from crun_batch.stats.intervals import wilson_interval
from crun_batch.stats.packs import AnswerPair, pack_agreement, rows_needed
from crun_batch.store.packs import divided, hold_part, stretches, text_stretch
from crun_batch.workload.packed_reply import read_packed
from crun_batch.workload.packing import FORMATS, PackFormat, packed_reply
from tests.simulation.gateway import BASE_URL, MODEL
from tests.simulation.packs import (
    FAILING,
    GARBLED,
    TABLE,
    PackScene,
    PackStage,
    broken_laws,
    kill_at_points,
    pico,
)

ONE_LINE = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30)
ANSWERS = {
    form: answers.filter(lambda text: not is_missing(text))
    for form, answers in {"json": st.text(max_size=30), "lines": ONE_LINE.map(str.strip)}.items()
}
"""Texts that say something: an answer of blanks and marks that nobody sees is none, in a pack as elsewhere."""


# --- what a reply says -------------------------------------------------------------------------------------------


@given(data=st.data(), form=st.sampled_from(FORMATS))
def test_a_reply_as_asked_gives_each_row_its_answer(data: st.DataObject, form: PackFormat) -> None:
    """Whatever the answers say, in whatever order they stand, with a fence and a sentence before them."""
    answers = data.draw(st.lists(ANSWERS[form], min_size=1, max_size=12))
    order = data.draw(st.permutations(range(len(answers))))
    if form == "lines":
        reply = "\n".join(f"{n + 1} {answers[n]}" for n in order)
    else:
        reply = json.dumps({"answers": [{"n": n + 1, "answer": answers[n]} for n in order]}, ensure_ascii=False)
    for said in (reply, f"Here they are:\n```\n{reply}\n```\n"):
        read = read_packed(said, len(answers), form)
        assert answers == [one.text for one in read.answers]
        assert not read.is_bad


@given(data=st.data(), form=st.sampled_from(FORMATS))
def test_what_stands_whole_before_a_cut_counts(data: st.DataObject, form: PackFormat) -> None:
    """Cut anywhere, no row gets another answer than its own, and no complaint is called bad."""
    answers = data.draw(st.lists(ANSWERS[form], min_size=2, max_size=8))
    reply = packed_reply(answers, form)
    cut = reply[: data.draw(st.integers(0, len(reply) - 1))]
    read = read_packed(cut, len(answers), form, is_cut=True)
    assert all(one.text in (answer, None) for one, answer in zip(read.answers, answers, strict=True))
    assert all(one.is_cut for one in read.answers if one.text is None)
    assert not read.is_bad


FAULTY: tuple[tuple[PackFormat, str, list[str | None], int], ...] = (
    ("lines", "1 good\n3 bad", ["good", None, "bad"], 0),
    ("lines", "1 good\n2 bad\n2 mixed\n3 bad", ["good", None, "bad"], 0),
    ("lines", "1 good\n2 bad\n3 bad\n4 good", ["good", "bad", "bad"], 1),
    ("lines", "0 good\n1 good\n2 bad\n3 bad", ["good", "bad", "bad"], 1),
    ("lines", "1 good\n2\n3 bad", ["good", None, "bad"], 0),
    ("lines", "1 good\n2 bad\nor so\n3 bad", ["good", None, "bad"], 0),
    ("lines", "[1] good\n2. bad\n3) mixed\r\n", ["good", "bad", "mixed"], 0),
    ("lines", "1 -5\n2 2.5\n3 12", ["-5", "2.5", "12"], 0),
    ("lines", "good\nbad\nmixed", [None, None, None], 0),
    ("lines", "", [None, None, None], 0),
    ("json", '{"answers":[{"n":1,"answer":"good"},{"n":3,"answer":"bad"}]}', ["good", None, "bad"], 0),
    ("json", '[{"n":"1","answer":"good"},{"n":2,"answer":5},{"n":3,"answer":[1]}]', ["good", "5", "[1]"], 0),
    ("json", '{"answers":[{"n":1,"answer":null},{"n":2,"answer":" "},{"n":true,"answer":"x"}]}', [None] * 3, 0),
    ("json", '{"answers":[{"n":1,"answer":"a"},{"n":1,"answer":"b"},{"n":9,"answer":"c"}]}', [None] * 3, 1),
    ("json", '{"n":1,"answer":"a"}\n{"n":2,"answer":"b"}\n{"n":3,"answer":"c"}', ["a", "b", "c"], 0),
    ("json", '{"answers":["a","b","c"]}', [None] * 3, 0),
    ("json", '{"answers":{"1":"a"}}', [None] * 3, 0),
    ("json", "1 a\n2 b\n3 c", [None] * 3, 0),
    ("json", "{" * 10_000, [None] * 3, 0),
    ("json", '{"answers":[{"n":1e400,"answer":"a"}', [None] * 3, 0),
)


@pytest.mark.parametrize(("form", "reply", "expected", "extra"), FAULTY)
def test_a_faulty_reply_gives_no_row_another_ones_answer(
    form: PackFormat, reply: str, expected: list[str | None], extra: int
) -> None:
    """Missing, doubled, extra, empty, on several lines: what is not certain has a complaint with its number."""
    read = read_packed(reply, 3, form)
    assert expected == [one.text for one in read.answers]
    assert extra == read.extra
    assert read.is_bad == (None in expected or extra > 0)
    for number, one in enumerate(read.answers, 1):
        assert (one.text is None) == (one.complaint is not None)
        assert one.complaint is None or str(number) in one.complaint


@given(text=st.text(max_size=200), form=st.sampled_from(FORMATS), is_cut=st.booleans())
def test_any_text_is_read(text: str, form: PackFormat, is_cut: bool) -> None:
    """No reply raises, and each row has an answer or a complaint."""
    read = read_packed(text, 5, form, is_cut=is_cut)
    assert 5 == len(read.answers)
    assert all((one.text is None) != (one.complaint is None) for one in read.answers)


@pytest.mark.parametrize("form", FORMATS)
def test_what_a_model_repeats_to_its_limit_is_read_soon(form: PackFormat) -> None:
    """Blanks within a line: half a megabyte of them had taken a quarter of an hour."""
    for text in ("1. a" + " " * 2**19 + "b", '[{"n": 1,' + " " * 2**19, "1" + " " * 2**19 + "[" * 2**10):
        assert 2 == len(read_packed(text, 2, form).answers)


# --- what a row has of its request -------------------------------------------------------------------------------

COUNT = st.integers(0, 10**9)


@given(
    sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=40),
    answers=st.lists(st.integers(0, 500), min_size=40, max_size=40),
    counts=st.tuples(COUNT, COUNT, COUNT, COUNT, COUNT),
    cost=st.tuples(st.none() | COUNT, st.none() | COUNT),
)
def test_parts_add_up_to_the_whole_to_the_last_digit(
    sizes: list[int], answers: list[int], counts: tuple[int, ...], cost: tuple[int | None, int | None]
) -> None:
    """Tokens, cost and holds: whole numbers, none below 0, no more cached than read or thought than written."""
    read, cached, written, output, reasoning = counts
    whole = Usage(read, min(cached, read), min(written, read), output, min(reasoning, output))
    along = stretches(sizes)
    places = [PackPlace(n, len(sizes), "lines", one.before, one.size, one.whole) for n, one in enumerate(along, 1)]
    said = stretches(answers[: len(sizes)])
    parts = [
        divided(whole, Cost(*cost), text_stretch(place), one) for place, one in zip(places, said, strict=True)
    ]
    for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"):
        assert getattr(whole, name) == sum(getattr(usage, name) for usage, _ in parts if usage is not None)
    for usage, part in parts:
        assert usage is not None
        assert usage.input_tokens is not None
        assert 0 <= usage.cached_input_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens
        assert all(amount is None or amount >= 0 for amount in (part.usd_pico, part.credits_pico))
    for unit, name in enumerate(("usd_pico", "credits_pico")):
        known = [getattr(part, name) for _, part in parts]
        assert cost[unit] == (None if None in known else sum(known))
        held = [getattr(hold_part(Hold(*cost), place), name) for place in places]
        assert cost[unit] == (None if None in held else sum(held))


# --- runs --------------------------------------------------------------------------------------------------------


def played(folder: Path, scene: PackScene, **options: Any) -> PackStage:
    stage = PackStage(scene, folder)
    stage.exit_code = stage.session(**options)
    return stage


def alone(folder: Path, scene: PackScene) -> pl.DataFrame:
    """The answers of the same rows by themselves."""
    keys = {**scene.keys, "pack": None}
    return played(folder, PackScene(keys=keys, seed=scene.seed)).results()


def requests_of(attempts: pl.DataFrame) -> int:
    return attempts.select(pl.col("serial") - pl.col("pack_place").fill_null(1) + 1).unique().height


@pytest.mark.parametrize("form", FORMATS)
def test_packed_rows_get_the_answers_that_they_get_alone(form: str, tmp_path: Path) -> None:
    """In six requests instead of 47; tokens and cost are those of the gateway's books, to the last digit."""
    stage = played(tmp_path / "packed", PackScene(form))
    assert 0 == stage.exit_code
    columns = ["id", "status", "output_text", "finish_reason", "request_hash"]
    assert alone(tmp_path / "alone", PackScene()).select(columns).equals(stage.results().select(columns))
    attempts = stage.attempts()
    assert 6 == requests_of(attempts) == stage.world.posts
    assert {8, 7} == set(attempts["pack_rows"])
    assert [] == list(broken_laws(stage))
    ledger = stage.world.gateway.ledger
    assert ledger.charged_pico == pico(attempts["cost_credits"].sum())
    bodies = attempts.filter(pl.col("reply_body") != "")
    assert [1] * 6 == bodies["pack_place"].to_list()


@pytest.mark.parametrize(
    "fault", ["missing", "doubled", "renumbered", "empty", "broken", "cut", "fenced", "wrong"]
)
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_wrong_in_a_reply_goes_back(fault: str, form: str, tmp_path: Path) -> None:
    """Every row ends with an answer, at a known cost, and only those without one are asked again."""
    rate = 0.5 if fault in ("broken", "cut", "fenced") else 0.05
    stage = played(tmp_path / "packed", PackScene(form, pack_faults={fault: rate}, seed=3))
    results, attempts = stage.results(), stage.attempts()
    assert 0 == stage.exit_code
    assert {"ok"} == set(results["status"])
    assert [] == list(broken_laws(stage))
    assert stage.world.gateway.ledger.charged_pico == pico(attempts["cost_credits"].sum())
    if fault != "wrong":
        assert alone(tmp_path / "alone", PackScene(seed=3))["output_text"].equals(results["output_text"])
    again = attempts.filter(pl.col("error_kind") == "bad_reply")
    assert (again.height > 0) == (fault not in ("fenced", "wrong"))
    if fault not in ("cut", "fenced", "wrong"):
        asked_next = attempts.filter(pl.col("id").is_in(again["id"].to_list()), pl.col("attempt") > 1)
        assert [None] * again.height == asked_next["pack_rows"].to_list()


def test_two_bad_packs_in_twenty_end_the_packing(tmp_path: Path) -> None:
    """From then on every row is asked alone, and it is said once."""
    stage = played(tmp_path, PackScene(pack_faults={"missing": 0.9}, keys={"limits": {"concurrency": 1}}))
    attempts = stage.attempts()
    assert 16 == attempts.filter(pl.col("pack_rows") > 1).height
    told = (
        "2 of the last 2 requests of several rows were not answered row by row: rows are asked alone from now on"
    )
    assert 1 == stage.said.count(told)
    assert {"ok"} == set(stage.results()["status"])


def test_a_reply_that_is_cut_halves_the_pack(tmp_path: Path) -> None:
    """8, 4, 2, then alone; what was whole before a cut is kept, and paid once."""
    stage = played(tmp_path, PackScene(pack_faults={"cut": 1.0}, keys={"limits": {"concurrency": 1}}))
    sizes = stage.attempts()["pack_rows"].unique(maintain_order=True).to_list()
    assert [8, 4, 2, None] == [size for size in sizes if size in (8, 4, 2, None)]
    assert "the reply to 8 rows was cut off: 4 in one request from now on" in stage.said
    assert "the reply to 2 rows was cut off: each is asked alone from now on" in stage.said
    assert [] == list(broken_laws(stage))


def test_a_request_that_is_refused_for_one_row_is_asked_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that the gateway's filter refuses fails alone; those that stood with it are answered."""
    stage = PackStage(PackScene(), tmp_path)

    def fault(body: bytes, digest: bytes) -> str | None:
        return "content_filter" if b"text 5 " in body else None

    monkeypatch.setattr(stage.world.gateway, "_fault", fault)
    assert 1 == stage.session()
    results = stage.results()
    assert ["r5"] == results.filter(pl.col("status") != "ok")["id"].to_list()
    assert "refused" == results.filter(pl.col("id") == "r5")["status"][0]
    assert [] == list(broken_laws(stage))


@pytest.mark.parametrize(("faults", "garbled", "step"), [({}, {}, 29), (FAILING, GARBLED, 53)])
def test_a_kill_at_any_point_loses_no_reply_and_pays_for_none_twice(
    faults: Mapping[str, float], garbled: Mapping[str, float], step: int, tmp_path: Path
) -> None:
    """Killed before, within or after an operation of the disk, and gone on with; all points: simulation.packs."""
    figures = kill_at_points(tmp_path, PackScene(faults=faults, pack_faults=garbled, seed=1), step=step)
    assert [] == figures.broken
    assert figures.kills >= 4


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"prompt": {"turns": ["{{ text }}", "more"]}}, "prompt.turns", "does not go with pack"),
    ({"prompt": {"messages_column": "text"}}, "prompt.messages_column", "does not go with pack"),
    (
        {"prompt": {"body_column": "text"}, "model": None, "params": {}},
        "prompt.body_column",
        "does not go with pack",
    ),
    ({"params": {"tools": [{"type": "function"}]}}, "params.tools", "does not go with pack"),
    ({"params": {"tool_choice": "auto"}}, "params.tool_choice", "does not go with pack"),
    ({"params": {"response_format": {"type": "json_object"}}}, "params.response_format", "write output_schema"),
    ({"params": {"n": 2}}, "params.n", "use repeats"),
    ({"params": {"stop": ["x"]}}, "params.stop", "does not go with pack"),
    ({"lane": "batch", "prices": {"batch_share": 0.5}}, "lane", "keep lane: batch or pack"),
    (
        {"endpoint": {"base_url": BASE_URL, "protocol": "completions"}},
        "endpoint.protocol",
        "does not go with pack",
    ),
    ({"output_schema": {"type": "object"}, "pack": {"format": "lines"}}, "pack.format", "must be json"),
    (
        {"prompt": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}},
        "prompt.messages",
        "must end",
    ),
    ({"pack": {"rows": 1}}, "pack.rows", "2"),
    ({"pack": {"size": 1}}, "pack.size", "unknown"),
    ({"prompt": {"system": "Of {{ id }}", "user": "{{ text }}"}}, "pack", "the same words before each"),
    (
        {"prompt": {"messages": [{"role": "user", "content": "{{ id }}"}, {"role": "user", "content": "x"}]}},
        "pack",
        "the same words before each",
    ),
)


@pytest.mark.parametrize(("keys", "key", "says"), REFUSED)
def test_what_cannot_be_packed_is_refused_with_words(
    keys: dict[str, Any], key: str, says: str, tmp_path: Path
) -> None:
    """Before anything is sent, at its key, with what to write instead; `pack: {}` packs as well."""
    stage = PackStage(PackScene(keys={"pack": {}, **keys}), tmp_path)
    with pytest.raises(InputError) as refused:
        stage.session()
    told = {mistake.key: mistake.message for mistake in refused.value.mistakes}
    assert says in told[key]
    assert 0 == stage.world.posts


def test_variants_and_repeats_are_packed_by_themselves(tmp_path: Path) -> None:
    """No request holds rows of two variants or repeats; a variant may go without."""
    who = {"packed": {}, "alone": {"pack": None}}
    stage = played(tmp_path, PackScene(keys={"repeats": 2, "sweep": {"who": who}}))
    attempts = stage.attempts().with_columns(first=pl.col("serial") - pl.col("pack_place") + 1)
    together = (
        attempts.filter(pl.col("pack_rows") > 1).group_by("first").agg(pl.col("variant", "repeat").n_unique())
    )
    assert {(1, 1)} == set(together.select("variant", "repeat").rows())
    assert {"alone"} == set(attempts.filter(pl.col("pack_rows").is_null())["variant"])
    assert [] == [law for law in broken_laws(stage) if "results" not in law and "answered" not in law]


def test_identical_rows_are_sent_once_in_packs_too(tmp_path: Path) -> None:
    """share_identical: the five different texts stand in one request; the others get their answers at no cost."""
    table = TABLE.with_columns(text=pl.format("text {}", pl.int_range(pl.len()) % 5))
    stage = PackStage(PackScene(keys={"share_identical": True}), tmp_path)
    assert 0 == stage.session(table=table)
    assert (1, 5) == (stage.world.posts, stage.attempts().height)
    assert (
        1
        == stage.results()
        .join(table, on="id")
        .group_by("text")
        .agg(pl.col("output_text").n_unique())["output_text"]
        .max()
    )


def test_answers_with_a_schema_are_checked_one_by_one(tmp_path: Path) -> None:
    """Each answer has the job's own schema, and becomes the typed column."""
    label = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}
    schema = {**label, "additionalProperties": False}
    stage = played(
        tmp_path, PackScene("json", keys={"output_schema": schema, "params": {"max_output_tokens": 50}})
    )
    results = stage.results()
    assert 6 == stage.world.posts
    assert {"good", "bad"} == {one["label"] for one in results["output"]}
    assert {"ok"} == set(results["status"])


@pytest.mark.parametrize(("protocol", "form"), [("chat", "lines"), ("responses", "json"), ("messages", "json")])
def test_packs_go_by_every_protocol_with_messages(protocol: str, form: str, tmp_path: Path) -> None:
    """The same rows, the same number of requests, every row answered."""
    endpoint = {"base_url": BASE_URL, "api_key_env": "SIMULATED_KEY", "protocol": protocol}
    stage = played(tmp_path, PackScene(form, keys={"endpoint": endpoint}))
    assert 6 == stage.world.posts
    assert {"ok"} == set(stage.results()["status"])
    assert [] == list(broken_laws(stage))


def test_one_pack_goes_ahead_to_warm_a_cache(tmp_path: Path) -> None:
    """All others wait for it and read what it wrote, rows alone and smaller packs too. The books agree."""
    price = {
        "currency": "credits",
        "input_per_mtok": "500",
        "cached_input_per_mtok": "50",
        "cache_write_per_mtok": "625",
        "output_per_mtok": "3000",
        "minimum_per_request": "0",
    }
    model = Model(
        input_per_mtok=Decimal(500),
        cached_input_per_mtok=Decimal(50),
        cache_write_per_mtok=Decimal(625),
        output_per_mtok=Decimal(3000),
        minimum_per_request=Decimal(0),
    )
    scene = PackScene(
        "json",
        pack_faults={"missing": 0.02},
        seed=4,
        keys={
            "endpoint": {"base_url": BASE_URL, "api_key_env": "SIMULATED_KEY", "protocol": "messages"},
            "prompt": {"system": "Label each text with care. " * 400, "user": "{{ text }}", "cache": "auto"},
            "prices": {"models": {MODEL: price}},
        },
        gateway={"cached_share": 1.0, "models": {MODEL: model}},
    )
    stage = played(tmp_path, scene)
    assert {"ok"} == set(stage.results()["status"])
    attempts = stage.attempts()
    requests = attempts.filter(pl.col("pack_place") == 1).select("started_at", "finished_at")
    assert requests["finished_at"][0] <= requests["started_at"][1:].min()
    assert 1 == requests.filter(pl.col("started_at") < requests["finished_at"][0]).height
    writes = attempts.filter(pl.col("cache_write_tokens") > 0)
    assert [0] * 8 == (writes["serial"] - writes["pack_place"]).to_list(), "all by the first request"
    assert attempts.filter(pl.col("pack_rows").is_null())["cached_input_tokens"].min() > 1_000
    assert stage.world.gateway.ledger.charged_pico == pico(attempts["cost_credits"].sum())
    assert [] == list(broken_laws(stage))


def test_a_budget_holds_for_packs(tmp_path: Path) -> None:
    """What is reserved is the request's bound; a run that may not spend more stops before it does."""
    stage = played(tmp_path, PackScene(keys={"budget": {"max_cost_credits": "1.5"}}), until_budget=True)
    assert 4 == stage.exit_code
    assert 0 < stage.world.gateway.ledger.charged_pico <= 15 * 10**11
    open_rows = 47 - stage.results().height
    assert 0 < open_rows < 47
    stage.scene = PackScene(keys={"budget": {"max_cost_credits": "50"}})
    assert 0 == stage.session()
    assert [] == list(broken_laws(stage))


def test_packs_are_priced_anew_as_the_requests_that_they_were(tmp_path: Path) -> None:
    """Other prices in the job file: each request's minimum and rounding once, its rows' parts add up to it."""
    stage = played(tmp_path, PackScene())
    now = {
        "currency": "credits",
        "input_per_mtok": "100.7",
        "output_per_mtok": "7.3",
        "minimum_per_request": "0.031",
    }
    stage.scene = PackScene(keys={"prices": {"models": {MODEL: now}}})
    assert 0 == stage.session(correct_prices=True)
    requests = (
        stage.attempts()
        .group_by(pl.col("serial") - pl.col("pack_place") + 1)
        .agg(pl.col("input_tokens", "output_tokens", "cost_credits").sum())
    )
    for read, written, cost in requests.select("input_tokens", "output_tokens", "cost_credits").rows():
        tokens = (Decimal("100.7") * read + Decimal("7.3") * written) / 10**6
        assert max(Decimal("0.031"), tokens) == cost
    assert stage.results()["cost_credits"].sum() == stage.attempts()["cost_credits"].sum()


def test_the_estimate_counts_the_packed_requests(tmp_path: Path) -> None:
    """So many requests as are sent; the bill is within its ends."""
    stage = PackStage(PackScene(), tmp_path)
    asked: list[dict[str, Any]] = []
    stage.session(confirm=lambda document: asked.append(document) or True)
    [told] = asked
    assert 6 == told["requests"] == stage.world.posts
    low, high = (Decimal(told["cost_credits"][end]) for end in ("low", "high"))
    assert low <= stage.attempts()["cost_credits"].sum() <= high


# --- pilots ------------------------------------------------------------------------------------------------------

MANY = pl.DataFrame({"id": [f"r{row}" for row in range(300)], "text": [f"text {row}" for row in range(300)]})


def piloted(
    folder: Path, faults: Mapping[str, float], rows: int = 200, **keys: Any
) -> tuple[PackStage, dict[str, Any]]:
    """A pilot of so many rows, and what it told of packing."""
    stage = PackStage(PackScene(pack_faults=faults, keys=keys), folder)
    assert 0 == stage.session(table=MANY, pilot=rows)
    [told] = json.loads((folder / "summary.json").read_bytes())["pilot"]["packing"].values()
    return stage, told


def test_a_pilot_asks_each_row_packed_and_alone_and_the_run_goes_on(tmp_path: Path) -> None:
    """All alike: the run goes on packed. Each pilot row is asked twice, its result is what it got alone."""
    stage, told = piloted(tmp_path, {})
    attempts = stage.attempts()
    assert {("answer", 8): 200, ("alone", None): 200} == {
        tuple(key): count for *key, count in attempts.group_by("purpose", "pack_rows").len().rows()
    }
    assert (1.0, 200) == (told["same"]["value"], told["same"]["rows"])
    assert told["same"]["low"] >= 0.98
    assert 1.0 == told["kappa"]["value"]
    assert told["by_place"]["low"] < 0 < told["by_place"]["high"]
    assert 0 == stage.session(table=MANY)
    assert 300 == stage.results().height
    assert 213 == requests_of(stage.attempts()) - 25
    assert stage.world.gateway.ledger.charged_pico == pico(stage.attempts()["cost_credits"].sum())


def test_a_run_does_not_go_on_packed_where_answers_differ(tmp_path: Path) -> None:
    """One in ten is another: refused with the figures and what to do; without pack the rest goes alone."""
    stage, told = piloted(tmp_path, {"wrong": 0.1})
    assert told["same"]["low"] < 0.98
    posts = stage.world.posts
    with pytest.raises(RefusedToStart, match="same answer packed and alone") as refused:
        stage.session(table=MANY)
    assert "Take pack out" in refused.value.advice
    assert posts == stage.world.posts
    stage.scene = PackScene(pack_faults={"wrong": 0.1}, keys={"pack": None})
    assert 0 == stage.session(table=MANY)
    alone_ = PackStage(PackScene(keys={"pack": None}), tmp_path / "alone")
    assert 0 == alone_.session(table=MANY)
    assert alone_.results()["output_text"].equals(stage.results()["output_text"])


def test_a_pilot_of_too_few_rows_says_how_many_are_needed(tmp_path: Path) -> None:
    """No difference among 40 rows is no proof of 98 %: refused, with the number that is one."""
    stage, told = piloted(tmp_path, {}, rows=40)
    assert 1.0 == told["same"]["value"]
    with pytest.raises(RefusedToStart) as refused:
        stage.session(table=MANY)
    needed = rows_needed(0.98)
    assert f"--pilot {needed}" in refused.value.advice
    assert wilson_interval(1.0, needed)[0] >= 0.98 > wilson_interval(1.0, needed - 2)[0]


def test_graders_say_what_is_the_same(tmp_path: Path) -> None:
    """Where a grader scores both answers alike they are the same, whatever they say."""
    grader = {"name": "right", "grader": "one_of", "expected": ["good", "bad"]}
    _, told = piloted(tmp_path, {"wrong": 0.2}, score=[grader])
    assert {"right"} == set(told["scores"])
    right = told["scores"]["right"]
    assert right["low"] <= right["value"] <= right["high"]
    assert told["same"]["value"] > 0.85


def test_an_unmeasured_job_is_told_so(tmp_path: Path) -> None:
    """Before a run that packs without a pilot, a note says how to measure."""
    asked: list[dict[str, Any]] = []
    with pytest.raises(RefusedToStart, match="not confirmed"):
        PackStage(PackScene(), tmp_path).session(confirm=lambda document: asked.append(document) or False)
    assert any("asks so many rows both ways" in note for note in asked[0]["checks"])


def test_a_pilot_that_is_killed_pays_for_no_answer_twice(tmp_path: Path) -> None:
    """Gone on with as a run: what a pack has brought is the result where the row has no answer of its own yet."""
    for at in (9, 14, 19):
        stage = PackStage(
            PackScene(keys={"pack": {"rows": 8, "format": "lines", "min_agreement": 0}}), tmp_path / str(at)
        )
        assert stage.session(at, "after", pilot=40) is None
        assert 0 == stage.session(table=TABLE)
        laws = [law for law in broken_laws(stage) if "answered more than once" not in law]
        assert [] == laws
        packed = stage.attempts().filter(pl.col("pack_rows") > 1, pl.col("outcome") == "done")
        assert 0 == packed.height - packed["id"].n_unique()


@given(rows=st.integers(30, 120), wrong=st.integers(0, 10), together=st.integers(2, 10))
def test_the_interval_holds_the_share(rows: int, wrong: int, together: int) -> None:
    """Low <= share <= high, never narrower than that of rows by themselves."""
    pairs = [
        AnswerPair(n // together, n % together + 1, together, "a", "b" if n < wrong else "a", n >= wrong)
        for n in range(rows)
    ]
    found = pack_agreement(pairs)
    assert found is not None
    low, high = wilson_interval(1 - wrong / rows, rows)
    assert found.same.low <= low + 1e-12
    assert high - 1e-12 <= found.same.high
    assert rows == found.same.rows
