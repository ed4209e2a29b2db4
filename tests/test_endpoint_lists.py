"""`endpoint` as a list in a job file: what it may be, how each is called, what is wrong with it and where."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.job.job import Job, parse_job
from crun_batch.load.job.judges import judge_jobs
from crun_batch.load.job.secrets import resolve_secrets
from crun_batch.load.job.sweep import variations
from crun_batch.mapping import fingerprint

A = {"name": "a", "base_url": "https://one.example/v1", "api_key_env": "KEY_A"}
B = {"name": "b", "base_url": "https://two.example/v1", "api_key_env": "KEY_B"}
PRICE = {"currency": "usd", "input_per_mtok": "1.25", "output_per_mtok": "10.000000000001"}


def job(*endpoints: Any, **keys: Any) -> Job:
    return Job(**{"model": "m", "prompt": {"user": "x"}, "endpoint": list(endpoints), **keys})


def complaints(*endpoints: Any, **keys: Any) -> dict[str | None, str]:
    with pytest.raises(InputError) as caught:
        job(*endpoints, **keys)
    return {mistake.key: mistake.message for mistake in caught.value.mistakes}


@pytest.mark.parametrize(
    ("endpoints", "key", "says"),
    [
        ([], "endpoint", "is an empty list"),
        ([A, "b"], "endpoint[1]", "must be a mapping"),
        ([A, {**B, "name": "a"}], "endpoint[1].name", "another endpoint is called 'a' too"),
        ([A, {**B, "name": "a b"}], "endpoint[1].name", "must be a name of letters"),
        ([A, {**B, "protocol": "responses"}], "endpoint[1].protocol", "must be the same for all endpoints"),
        ([A, {**B, "stream": True}], "endpoint[1].stream", "must be the same for all endpoints"),
        ([A, {**B, "weight": 0}], "endpoint[1].weight", "must be above 0"),
        ([{**A, "weight": -1}, B], "endpoint[0].weight", "must be above 0"),
        ([A, {**B, "weight": "2"}], "endpoint[1].weight", "must be a number"),
        ([A, {**B, "base_url": "two"}], "endpoint[1].base_url", "must be an http:// or https:// address"),
        ([{**A, "base_ulr": "x"}, B], "endpoint[0].base_ulr", "unknown key; did you mean base_url?"),
        ([A, {**B, "api_key": "x"}], "endpoint[1].api_key", "a key has no place in a job file"),
        ([A, {**B, "api_key_file": "k"}], "endpoint[1].api_key_file", "cannot stand beside endpoint.api_key_env"),
        ([A, {**B, "auth": "none"}], "endpoint[1].auth", "none sends no key, but a key is named"),
        ([A, {"base_url": "https://t.example", "auth": "bearer"}], "endpoint[1].auth", "needs a key"),
        ([A, {**B, "headers": {"Authorization": "x"}}], "endpoint[1].headers.Authorization", "not hold a key"),
        ([A, {**B, "limits": {"max_attempts": 3}}], "endpoint[1].limits.max_attempts", "unknown key"),
        ([A, {**B, "limits": {"concurrency": 0}}], "endpoint[1].limits.concurrency", "must be at least 1"),
        ([A, {**B, "prices": {"m": {"currency": "eur"}}}], "endpoint[1].prices.m.currency", "must be 'usd'"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_told_at_its_place(endpoints, key, says):
    assert says in complaints(*endpoints)[key]


def test_mistakes_have_their_lines_and_come_at_once():
    text = """model: m
prompt: {user: x}
endpoint:
  - name: a
    weight: 0
  - name: a
    protocol: smoke
"""
    with pytest.raises(InputError) as caught:
        parse_job(text, source="job.yaml", format="yaml", folders=Folders(Path()), needs_table=False)
    found = {(mistake.key, mistake.line) for mistake in caught.value.mistakes}
    assert {("endpoint[0].weight", 5), ("endpoint[1].name", 6), ("endpoint[1].protocol", 7)} == found


def test_a_missing_key_is_named_with_its_endpoint():
    second = job(A, B).at_each_endpoint[1]
    with pytest.raises(InputError, match=r"endpoint\[1\].api_key_env: the variable KEY_B is not set"):
        resolve_secrets(second, {"KEY_A": "a"})


def test_endpoints_are_called_by_their_hosts_where_they_have_no_name():
    """A number where the host is taken, by another or by a written name; a port is part of it."""
    urls = ["https://h.example/v1", "https://h.example/v2", "http://127.0.0.1:8001", "https://x.example"]
    listed = job({"name": "x.example", "base_url": "https://y.example"}, *({"base_url": url} for url in urls))
    names = [one.endpoint.name for one in listed.at_each_endpoint]
    assert ["x.example", "h.example", "h.example-2", "127.0.0.1-8001", "x.example-2"] == names


def test_each_endpoint_is_a_job_with_its_own_terms():
    """Its limits and prices stand in the place of the job's; amounts stay exact; the job itself keeps its own."""
    own = {**B, "limits": {"requests_per_minute": 60}, "prices": {"m": PRICE}}
    given_ = job(A, own, limits={"concurrency": 9}, prices={"models": {"m": {**PRICE, "input_per_mtok": 2}}})
    first, second = given_.at_each_endpoint
    assert (9, None, 9, 60) == (
        first.limits.concurrency,
        first.limits.requests_per_minute,
        second.limits.concurrency,
        second.limits.requests_per_minute,
    )
    assert (Decimal(2), Decimal("1.25")) == tuple(one.prices.models["m"].input_per_mtok for one in (first, second))
    assert Decimal("10.000000000001") == second.prices.models["m"].output_per_mtok
    assert (None, Decimal(2)) == (given_.limits.requests_per_minute, given_.prices.models["m"].input_per_mtok)


def test_one_endpoint_has_its_own_terms_too_and_hides_no_mistake():
    """What its limits and prices stand for is checked all the same, and job.json says both."""
    written = {**A, "limits": {"concurrency": 2}, "prices": {"m": PRICE}}
    one = Job(model="m", prompt={"user": "x"}, endpoint=written, limits={"concurrency": 9})
    [at] = one.at_each_endpoint
    assert (9, 2) == (one.limits.concurrency, at.limits.concurrency)
    assert ({}, {"m"}) == (one.prices.models, set(at.prices.models))
    text = orjson.dumps(one.public_dict()).decode()
    again = parse_job(text, source="job.json", format="json", folders=Folders(Path()), needs_table=False)
    assert one.public_dict() == again.public_dict()
    with pytest.raises(InputError) as caught:
        Job(model="m", prompt={"user": "x"}, endpoint=written, prices={"models": {"m": {"currency": "usd"}}})
    keys = {mistake.key for mistake in caught.value.mistakes}
    assert {"prices.models.m.input_per_mtok", "prices.models.m.output_per_mtok"} == keys


def test_the_public_form_reads_back_to_the_same_list():
    written = job(A, {**B, "weight": 2, "prices": {"m": PRICE}})
    text = orjson.dumps(written.public_dict()).decode()
    again = parse_job(text, source="job.json", format="json", folders=Folders(Path()), needs_table=False)
    assert written.public_dict() == again.public_dict()
    assert [one.public_dict() for one in written.at_each_endpoint] == [
        one.public_dict() for one in again.at_each_endpoint
    ]


ENDPOINTS = st.lists(
    st.fixed_dictionaries(
        {"base_url": st.sampled_from(["https://one.example/v1", "https://two.example/v1"])},
        optional={
            "api_key_env": st.sampled_from(["K1", "K2"]),
            "weight": st.sampled_from([0.5, 1, 3]),
            "limits": st.just({"requests_per_minute": 5}),
            "prices": st.just({"m": PRICE}),
            "headers": st.just({"X-Team": "${TEAM}"}),
        },
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(ENDPOINTS, ENDPOINTS)
def test_no_change_of_a_list_makes_another_job(before, after):
    """The fingerprint of what is asked is that of a single endpoint, whatever the list."""
    alone = Job(model="m", prompt={"user": "x"})
    assert alone.request_fingerprint() == job(*before).request_fingerprint() == job(*after).request_fingerprint()


def test_a_sweep_and_an_override_reach_every_endpoint_of_the_list():
    swept = job(A, B, sweep={"who": {"chat": {}, "new": {"endpoint": {"protocol": "responses"}}}})
    protocols = {one.name: [at.endpoint.protocol for at in one.job.at_each_endpoint] for one in variations(swept)}
    assert {"chat": ["chat", "chat"], "new": ["responses", "responses"]} == protocols
    changed = job(A, B).with_overrides({"endpoint.base_url": "http://127.0.0.1:1", "endpoint.api_key_env": None})
    assert ["http://127.0.0.1:1"] * 2 == [one.endpoint.base_url for one in changed.at_each_endpoint]
    assert ["a", "b"] == [one.endpoint.name for one in changed.at_each_endpoint]


def test_a_level_may_bring_a_list_of_its_own():
    swept = job(A, B, sweep={"where": {"both": {}, "one": {"endpoint": [B]}}})
    names = {one.name: [at.endpoint.name for at in one.job.at_each_endpoint] for one in variations(swept)}
    assert {"both": ["a", "b"], "one": ["b"]} == names


def test_a_judge_is_asked_at_the_jobs_list_unless_it_names_its_own():
    judge = {"name": "j", "grader": "judge", "model": "judge-1"}
    own = {**judge, "name": "k", "endpoint": {"base_url": "https://three.example", "auth": "none"}}
    [listed, alone] = judge_jobs(job(A, B, score=[judge, own]))
    assert ["a", "b"] == [one.endpoint.name for one in listed.job.at_each_endpoint]
    assert ["https://three.example"] == [one.endpoint.base_url for one in alone.job.at_each_endpoint]


def test_answers_that_are_kept_at_one_gateway_need_one_endpoint():
    prompt = {"turns": ["a", "b"], "stateful": True}
    endpoints = [{**one, "protocol": "responses"} for one in (A, B)]
    assert "needs one endpoint" in complaints(*endpoints, prompt=prompt)["prompt.stateful"]
    assert job(endpoints[0], prompt=prompt).prompt.stateful


def test_a_map_goes_on_with_another_list():
    """Its folder is named after what is asked; of a list neither an address nor a number of them is in it."""
    frame = [{"text": "x"}]
    import polars as pl

    table = pl.DataFrame(frame)
    names = {fingerprint(job(*listed), table) for listed in ([A, B], [B, A], [A, B, {**B, "name": "c"}])}
    assert 1 == len(names)
