"""The job file: every key, every mistake with its place, and nothing secret in any message."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.job.job import Job, load_job, parse_job
from crun_batch.load.job.json_schema import job_schema
from crun_batch.load.job.mistakes import known_keys
from crun_batch.load.job.places import dotted, split_dotted
from crun_batch.load.job.rules import EXCLUDES, RULES
from crun_batch.load.job.secrets import resolve_secrets
from crun_batch.load.job.sweep import variations
from crun_batch.options import RunOptions
from crun_batch.workload.loading import load

REFERENCE = Path(__file__).parents[1] / "docs" / "job-file.md"
KEY = "ak_0123456789abcdef0123456789abcdef"

SMALLEST: dict[str, Any] = {"input": {"table": "t.csv"}, "model": "m", "prompt": {"user": "{{ text }}"}}

PRICE: dict[str, Any] = {
    "currency": "credits",
    "input_per_mtok": 500,
    "output_per_mtok": 3000,
    "cached_input_per_mtok": 50,
    "cache_write_per_mtok": 600,
    "cache_write_1h_per_mtok": 1000,
    "minimum_per_request": 0.01,
    "valid_from": "2026-11-01T00:00:00Z",
    "tiers": [
        {
            "above_input_tokens": 200000,
            "input_per_mtok": 1000,
            "output_per_mtok": 6000,
            "cached_input_per_mtok": 100,
            "cache_write_per_mtok": 1200,
            "cache_write_1h_per_mtok": 2000,
        }
    ],
    "service_tiers": {
        "flex": {
            "input_per_mtok": 250,
            "output_per_mtok": 1500,
            "cached_input_per_mtok": 25,
            "cache_write_per_mtok": 300,
            "cache_write_1h_per_mtok": 500,
            "minimum_per_request": 0.005,
            "tiers": [
                {
                    "above_input_tokens": 200000,
                    "input_per_mtok": 500,
                    "output_per_mtok": 3000,
                    "cached_input_per_mtok": 50,
                    "cache_write_per_mtok": 600,
                    "cache_write_1h_per_mtok": 1000,
                }
            ],
        }
    },
}
OWN_LIMITS = {"concurrency": 4, "adaptive": False, "requests_per_minute": 60, "tokens_per_minute": 20000}
EVERY_KEY: dict[str, Any] = {
    "name": "label-reviews",
    "extends": ["team/gateway.yaml"],
    "env_file": ".env",
    "input": {
        "table": ["a.parquet", "b/*.csv"],
        "query": "select 1 as k",
        "where": "lang = 'en'",
        "id": "k",
        "limit": 10,
        "sample": {"rows": 5, "seed": 7},
        "csv": {"delimiter": ";", "encoding": "cp1252", "quote": "none"},
        "sheet": "Reviews",
    },
    "endpoint": {
        "name": "main",
        "base_url": "https://gateway.example/v1",
        "protocol": "chat",
        "api_key_env": "MY_KEY",
        "api_key_file": "key.txt",
        "ca_file": "ca.pem",
        "auth": "x-api-key",
        "headers": {"X-Team": "${TEAM}"},
        "query": {"api-version": "2024-10-21"},
        "stream": True,
        "weight": 2,
        "limits": OWN_LIMITS,
        "prices": {"gpt-5.4": PRICE},
    },
    "model": "gpt-5.4",
    "prompt": {
        "system": "s",
        "user": "u",
        "messages": [
            {"role": "user", "content": "q", "name": "n", "tool_calls": [{}], "tool_call_id": "c"},
        ],
        "messages_column": "chat",
        "body_column": "body",
        "turns": ["a", "b"],
        "cache": "auto",
        "stateful": True,
    },
    "params": {"temperature": 0, "max_output_tokens": 64},
    "output_schema": {"type": "object"},
    "repair_attempts": 2,
    "sweep": {"params.temperature": [0, 0.7], "who": {"gpt": {"model": "gpt-5.4"}}},
    "repeats": 3,
    "reuse": ["runs/may", "runs/june"],
    "share_identical": True,
    "score": [
        {
            "name": "right",
            "grader": "judge",
            "expected": "{{ answer }}",
            "pattern": "#### (.*)",
            "field": "a.b",
            "ignore_case": True,
            "whitespace": "collapse",
            "tolerance": 0.01,
            "relative_tolerance": 0.001,
            "function": "graders:is_polite",
            "labels": {"good": 1, "bad": 0},
            "scale": [1, 5],
            "model": "judge-1",
            "endpoint": {
                "name": "judges",
                "base_url": "http://h",
                "protocol": "chat",
                "api_key_env": "K",
                "api_key_file": "key",
                "ca_file": "ca.pem",
                "auth": "none",
                "headers": {"X-Team": "${TEAM}"},
                "query": {"api-version": "2024-10-21"},
                "stream": True,
                "weight": 1,
                "limits": OWN_LIMITS,
                "prices": {"gpt-5.4": PRICE},
            },
            "prompt": {"system": "s", "user": "{{ output_text }}"},
            "params": {"temperature": 0},
            "output_schema": {"type": "object"},
        }
    ],
    "limits": {
        "concurrency": 8,
        "adaptive": False,
        "requests_per_minute": 600,
        "tokens_per_minute": 200000,
        "attempt_timeout_seconds": 30.5,
        "max_attempts": 2,
        "max_unknown_retries": 0,
        "give_up_after_minutes": 5,
        "stop_at_error_rate": 0.25,
        "on_variant_failure": "stop",
    },
    "budget": {"max_cost_usd": 5.0, "max_cost_credits": 1000, "credits": "off", "keep_credits": 1},
    "prices": {
        "credits_per_usd": 200,
        "models": {"gpt-5.4": PRICE},
        "batch_share": 0.5,
    },
    "lane": "live",
    "pack": {"rows": 20, "format": "json", "min_agreement": 0.95, "seed": 3},
    "batch": {
        "form": "openai",
        "max_requests": 1000,
        "max_megabytes": 50.5,
        "max_enqueued_tokens": 90000,
        "completion_window": "24h",
        "look_every_seconds": 10.5,
    },
    "output": {"dir": "runs/x", "columns": ["review_id", {"language": "lang"}], "publish": "s3://bucket/runs"},
    "on_end": {"command": ["notify-send", "done"], "webhook_env": "HOOK"},
}


def yaml_lines(tree: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Block style, one key a line, so that a test knows each key's line."""
    lines = []
    for key, value in tree.items():
        name = " " * indent + json.dumps(key, ensure_ascii=False) + ":"
        if isinstance(value, dict) and value:
            lines += [name, *yaml_lines(value, indent + 2)]
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            lines.append(name)
            for item in value:
                first, *rest = yaml_lines(item, indent + 4) or [" " * indent + "    {}"]
                lines += [" " * indent + "  - " + first.strip(), *rest]
        else:
            lines.append(f"{name} {json.dumps(value, ensure_ascii=False)}")
    return lines


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {toml_value(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def written(tree: Mapping[str, Any], format: str) -> str:
    if format == "yaml":
        return "\n".join(yaml_lines(tree))
    if format == "toml":
        return "\n".join(f"{json.dumps(key)} = {toml_value(value)}" for key, value in tree.items())
    return json.dumps(tree)


def parse(tree: Mapping[str, Any] | str, format: str = "yaml", **options: Any) -> Job:
    text = tree if isinstance(tree, str) else written(tree, format)
    given = {"source": f"job.{format}", "environ": {}} | options
    given["folders"] = Folders(given.pop("base_dir", Path()))
    return parse_job(text, format=format, **given)


def complaints(tree: Mapping[str, Any] | str, format: str = "yaml", **options: Any) -> list[Any]:
    with pytest.raises(InputError) as raised:
        parse(tree, format, **options)
    return list(raised.value.mistakes)


def changed(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy with dotted keys set."""
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    for key, value in changes.items():
        *parents, last = split_dotted(key)
        section = copy
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return copy


def keys_of(mistakes: list[Any]) -> list[str | None]:
    return [mistake.key for mistake in mistakes]


# --- values and defaults -------------------------------------------------------------------------------------


def test_the_smallest_job_has_the_documented_defaults():
    """Whatever is not written has the default that the design names."""
    job = parse(SMALLEST, source="some/My Job!.yaml")
    assert ("My-Job", Path("runs/My-Job")) == (job.name, job.output.dir)
    assert ("https://api.crun.ai/api/v1", "chat", False) == (
        job.endpoint.base_url,
        job.endpoint.protocol,
        job.endpoint.stream,
    )
    assert ("CRUN_API_KEY", "bearer") == (job.endpoint.api_key_env, job.endpoint.auth)
    limits = job.limits.model_dump()
    assert {
        "concurrency": 64,
        "adaptive": True,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "attempt_timeout_seconds": 600.0,
        "max_attempts": 6,
        "max_unknown_retries": 1,
        "give_up_after_minutes": 30.0,
        "stop_at_error_rate": 0.5,
        "on_variant_failure": "set_aside",
    } == limits
    assert ("require", Decimal(0), 1, 1, False) == (
        job.budget.credits,
        job.budget.keep_credits,
        job.repair_attempts,
        job.repeats,
        job.share_identical,
    )
    assert (None, None, {}) == (job.prices.credits_per_usd, job.max_output_tokens, job.params)


def test_max_output_tokens_leaves_params_and_bounds_the_reply():
    """The one param that is translated is told apart from those that pass through."""
    job = parse(changed(SMALLEST, {"params": {"max_output_tokens": 64, "temperature": 0.5, "stop": None}}))
    assert (64, 64, {"temperature": 0.5, "stop": None}) == (
        job.max_output_tokens,
        job.output_limit_tokens,
        job.params,
    )
    assert 7 == parse(changed(SMALLEST, {"params": {"max_completion_tokens": 7}})).output_limit_tokens
    assert None is parse(SMALLEST).output_limit_tokens


@pytest.mark.parametrize("format", ["yaml", "toml", "json"])
def test_amounts_are_taken_by_their_literal_text(format):
    """0.1 is one tenth, and no digit is lost on the way."""
    literal = "123456789.000000000001"
    tree = changed(
        SMALLEST,
        {"prices.credits_per_usd": 0.125, 'prices.models."m.1"': {"currency": "usd", "input_per_mtok": 0.1}},
    )
    tree["prices"]["models"]["m.1"]["output_per_mtok"] = "2.50"
    job = parse(written(tree, format).replace("0.125", literal), format)
    price = job.prices.models["m.1"]
    assert (Decimal(literal), Decimal("0.1"), Decimal("2.50")) == (
        job.prices.credits_per_usd,
        price.input_per_mtok,
        price.output_per_mtok,
    )


@pytest.mark.parametrize("format", ["yaml", "toml", "json"])
def test_values_are_plain_python(format):
    """orjson can write whatever passes through: no ScalarFloat, no Decimal, no date."""
    job = parse(changed(SMALLEST, {"params": {"t": 0.7, "n": [1, {"x": 2.5e-3}], "s": "2020-01-01"}}), format)
    assert b'{"t":0.7,"n":[1,{"x":0.0025}],"s":"2020-01-01"}' == orjson.dumps(job.params)
    assert float is type(job.params["t"])


def test_yaml_is_1_2_and_keys_are_text():
    """no, off and 010 mean what they say; a mapping's keys are texts as in JSON; a bare date is a text."""
    text = "input: {table: t.csv}\nmodel: m\nprompt: {user: no}\nbudget: {credits: off}\n"
    job = parse(text + "params: {logit_bias: {50256: -100}, seed: 010, hex: 0x1F, day: 2020-01-01, many: 1_000}\n")
    assert ("no", "off") == (job.prompt.user, job.budget.credits)
    assert {
        "logit_bias": {"50256": -100},
        "seed": 10,
        "hex": 31,
        "day": "2020-01-01",
        "many": 1000,
    } == job.params


def test_yaml_anchors_and_merges_work():
    """An alias is its value; << takes keys over, and written keys win."""
    text = "input: &i {table: t.csv, limit: 5}\nmodel: m\nprompt: {user: x}\nparams: {<<: *i, limit: 6, y: *i}\n"
    assert {"table": "t.csv", "limit": 6, "y": {"table": "t.csv", "limit": 5}} == parse(text).params


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["a", "b"], {"a": "a", "b": "b"}),
        ({"x": "a"}, {"x": "a"}),
        (["a", {"x": "b"}], {"a": "a", "x": "b"}),
        ("all", "all"),
        (None, None),
    ],
)
def test_columns_have_one_form_inside(columns, expected):
    """However they are written, columns are {name in results: input column}, `all`, or None."""
    assert expected == parse(changed(SMALLEST, {"output.columns": columns})).output.columns


def test_texts_and_schema_may_live_in_files(tmp_path):
    """{file: path} is relative to the job file and only its text is kept; a missing one is named."""
    (tmp_path / "system.txt").write_text("Sei höflich.", encoding="utf-8")
    (tmp_path / "few.txt").write_text("few", encoding="utf-8")
    prompt = {"messages": [{"role": "user", "content": [{"type": "text", "text": {"file": "few.txt"}}]}]}
    assert (
        "few"
        == parse(changed(SMALLEST, {"prompt": prompt}), base_dir=tmp_path).prompt.messages[0]["content"][0]["text"]
    )
    job = parse(changed(SMALLEST, {"prompt.system": {"file": "system.txt"}}), base_dir=tmp_path)
    assert "Sei höflich." == job.prompt.system
    assert "Sei höflich." == job.with_overrides({"model": "other"}).prompt.system
    (missing,) = complaints(changed(SMALLEST, {"prompt.user": {"file": "no.txt"}}), base_dir=tmp_path)
    assert ("prompt.user", 5) == (missing.key, missing.line)
    assert str(tmp_path / "no.txt") in missing.message
    (tmp_path / "schema.json").write_text('{"type": "object", "typ": "a", "typ": "b"}', encoding="utf-8")
    found = complaints(changed(SMALLEST, {"output_schema": "schema.json"}), base_dir=tmp_path)
    assert ["typ"] == keys_of(found)
    (tmp_path / "schema.json").write_text('{"type": "object", "properties": {"a": {"type": "text"}}}')
    found = complaints(changed(SMALLEST, {"output_schema": "schema.json"}), base_dir=tmp_path)
    assert ["output_schema"] == keys_of(found)


def test_load_job_names_the_file(tmp_path):
    """A job file that cannot be read is told by its path; its suffix chooses the format."""
    path = tmp_path / "label it.toml"
    path.write_text(written(SMALLEST, "toml"), encoding="utf-8")
    assert ("label-it", tmp_path, str(path)) == (
        (job := load_job(path, environ={})).name,
        job.base_dir,
        job.source,
    )
    for wrong in (tmp_path / "none.yaml", tmp_path / "job.txt", tmp_path):
        with pytest.raises(InputError) as raised:
            wrong.write_text("a: 1") if wrong.suffix == ".txt" else None
            load_job(wrong, environ={})
        assert str(wrong) == raised.value.mistakes[0].file
    path.with_suffix(".yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="not UTF-8"):
        load_job(path.with_suffix(".yaml"))


# --- the address and the key ---------------------------------------------------------------------------------


def test_a_key_never_goes_to_another_host_by_default():
    """CRUN_API_KEY is the default only with the default address, which CRUN_BASE_URL may change."""
    other = {"endpoint.base_url": "http://127.0.0.1:8000/v1/"}
    endpoint = parse(changed(SMALLEST, other)).endpoint
    assert ("http://127.0.0.1:8000/v1", None, "none") == (endpoint.base_url, endpoint.api_key_env, endpoint.auth)
    endpoint = parse(SMALLEST, environ={"CRUN_BASE_URL": "https://eu.crun.ai/api/v1"}).endpoint
    assert ("https://eu.crun.ai/api/v1", "CRUN_API_KEY") == (endpoint.base_url, endpoint.api_key_env)
    endpoint = parse(changed(SMALLEST, other), environ={"CRUN_BASE_URL": "https://eu.crun.ai"}).endpoint
    assert ("http://127.0.0.1:8000/v1", None) == (endpoint.base_url, endpoint.api_key_env)
    endpoint = parse(SMALLEST).with_overrides({"endpoint.base_url": "http://127.0.0.1:1"}).endpoint
    assert (None, "none") == (endpoint.api_key_env, endpoint.auth)
    endpoint = parse(changed(SMALLEST, other | {"endpoint.api_key_env": "K"})).endpoint
    assert ("K", "bearer") == (endpoint.api_key_env, endpoint.auth)
    (mistake,) = complaints(SMALLEST, environ={"CRUN_BASE_URL": "ftp://x"})
    assert "the variable CRUN_BASE_URL" == mistake.file


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://a", "https://", "https://a?b", "https://a#b", "https://u:p@a", "http://a b"]
)
def test_addresses_are_plain_http(url):
    """An address is http or https, with a host, without query, fragment, user."""
    (mistake,) = complaints(changed(SMALLEST, {"endpoint.base_url": url, "endpoint.auth": "none"}))
    assert "endpoint.base_url" == mistake.key
    assert "u:p" not in mistake.message


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint.api_key": "hunter2hunter2"},
        {"endpoint.key": "hunter2hunter2"},
        {"api_key": "hunter2hunter2"},
        {"endpoint.api_key_env": KEY},
        {"endpoint.auth": "hunter2hunter2"},
        {"endpoint.api_key_env": "hunter2 hunter2"},
        {"endpoint.headers": {"Authorization": "Bearer hunter2hunter2"}, "endpoint.auth": "none"},
        {"endpoint.headers": {"X-Goog-Api-Key": "hunter2hunter2"}},
        {"endpoint.headers": {"X-Anything": "sk-proj-0123456789abcdefhunter2"}},
        {"endpoint.headers": {"X-Anything": ["hunter2"]}},
        {"params": {"api": f"x {KEY}"}},
        {f"params.{KEY}": 1, "modle": 1},
        {"name": KEY},
    ],
)
def test_keys_in_the_job_file_are_refused_and_not_shown(changes):
    """No message repeats what may be a key."""
    with pytest.raises(InputError) as raised:
        parse(changed(SMALLEST, changes))
    shown = f"{raised.value} {raised.value!r} {raised.value.mistakes!r}"
    assert "hunter2" not in shown
    assert KEY not in shown
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(known_keys(Job))), st.sampled_from([KEY, "sk-proj-0123456789-abcdef_0123"]))
def test_no_message_shows_a_key_wherever_it_was_put(path, key):
    """A key pasted at any place of the job stays out of what is printed."""
    concrete = tuple({"prices": "m", "params": "x"}.get(path[0], "m") if part == "*" else part for part in path)
    try:
        shown = repr(parse(changed(SMALLEST, {dotted(concrete): key})).limits)
    except InputError as error:
        shown = f"{error} {error.mistakes!r}"
    assert key not in shown


def test_secrets_are_resolved_at_the_start_and_have_no_repr(tmp_path):
    """Variables and the key file are read once, all that is missing is named at once, nothing is repeated."""
    headers = {"X-Team": "team ${TEAM}", "X-Two": "${TEAM}${OTHER}", "X-Plain": "v"}
    job = parse(changed(SMALLEST, {"endpoint.headers": headers}), base_dir=tmp_path)
    environ = {"CRUN_API_KEY": f" {KEY}\n", "TEAM": "red", "OTHER": "s3cret"}
    secrets = resolve_secrets(job, environ)
    assert (KEY, {"X-Team": "team red", "X-Two": "reds3cret", "X-Plain": "v"}) == (secrets.key, secrets.headers)
    assert not {KEY, "s3cret"} & set(re.split(r"[^\w]", f"{secrets!r} {secrets} {job!r} {job.public_dict()}"))
    with pytest.raises(InputError) as raised:
        resolve_secrets(job, {})
    assert [
        "endpoint.api_key_env",
        "endpoint.headers.X-Team",
        "endpoint.headers.X-Two",
        "endpoint.headers.X-Two",
    ] == keys_of(raised.value.mistakes)
    with pytest.raises(InputError) as raised:
        resolve_secrets(job, environ | {"OTHER": "s3cret\nline", "CRUN_API_KEY": "schlüssel"})
    assert "s3cret" not in str(raised.value) and "schl" not in str(raised.value)

    job = parse(changed(SMALLEST, {"endpoint.api_key_file": "key.txt"}), base_dir=tmp_path)
    with pytest.raises(InputError, match="No such file"):
        resolve_secrets(job, {})
    (tmp_path / "key.txt").write_text(f"{KEY}\n")
    assert KEY == resolve_secrets(job, {}).key
    assert None is resolve_secrets(parse(changed(SMALLEST, {"endpoint.auth": "none"})), environ).key


# --- mistakes ------------------------------------------------------------------------------------------------


def test_all_mistakes_come_at_once_with_their_lines():
    """Syntax of values, types, unknown keys, rules and overrides: one run shows them all, in file order."""
    text = "\n".join(
        [
            "input: {tabel: x}",
            "model: 5",
            "limits:",
            "  concurrency: 0",
            "  adaptive: yes",
            "  concurrency: 7",
            "params: {t: .nan}",
            "prices: {models: {gpt-5.4: {currency: eur, input_per_mtok: -1, output_per_mtok: 1}}}",
            "prompt: {user: a, messages_column: b}",
        ]
    )
    found = complaints(text, overrides={"limits.max_atempts": "3", "model.x": "1"})
    assert [
        (None, "model.x"),
        (None, "limits.max_atempts"),
        (1, "input"),
        (1, "input.tabel"),
        (2, "model"),
        (4, "limits.concurrency"),
        (5, "limits.adaptive"),
        (6, "limits.concurrency"),
        (7, "params.t"),
        (8, 'prices.models."gpt-5.4".currency'),
        (8, 'prices.models."gpt-5.4".input_per_mtok'),
        (9, "prompt"),
    ] == [(mistake.line, mistake.key) for mistake in found]
    assert ["--set", "--set", *["job.yaml"] * 10] == [mistake.file for mistake in found]
    assert "must be at least 1; found 0" == next(m.message for m in found if m.line == 4)
    assert "must be 'usd' or 'credits'; found 'eur'" == next(m.message for m in found if m.line == 8)


@pytest.mark.parametrize(("key", "other", "advice"), EXCLUDES)
def test_keys_that_exclude_each_other(key, other, advice):
    """Two keys that cannot stand together are told, with what to do."""
    written_keys = {}
    for name in (key, other):
        value: Any = EVERY_KEY
        for part in name.split("."):
            value = value[part]
        written_keys[name] = value
    found = complaints(changed(SMALLEST, written_keys))
    assert f"cannot stand beside {other}: {advice}" in [m.message for m in found if m.key == key]


BREAKS: list[tuple[dict[str, Any], str]] = [
    ({"input": {}}, "needs table"),
    ({"input": {"query": "select 1"}}, "needs input.id"),
    ({"model": None}, "is missing: name"),
    ({"prompt": {"system": "s"}}, "needs exactly one"),
    ({"prompt.stateful": True}, "needs prompt.turns"),
    ({"prompt.stateful": True, "params": {"store": False}}, "needs stored responses"),
    ({"prompt": {"turns": ["a"]}, "endpoint": {"protocol": "completions"}}, "says who said what"),
    ({"output_schema": {"enum": ["a"]}, "endpoint": {"protocol": "messages"}}, "must describe an object"),
    ({"output_schema": {"$ref": "http://other/schema"}}, "nothing is fetched"),
    ({"endpoint": {"auth": "none", "api_key_env": "K"}}, "sends no key"),
    ({"endpoint": {"auth": "bearer", "base_url": "http://other"}}, "needs a key"),
    ({"endpoint": {"headers": {"authorization": "${X}"}}}, "hold Authorization"),
    ({"endpoint": {"protocol": "completions", "stream": True}}, "does not stream"),
    ({"endpoint": {"protocol": "messages"}}, "the messages protocol requires it"),
    ({"budget.max_cost_credits": 5}, "may cost any amount"),
    ({"budget.max_cost_usd": 5, "params": {"max_tokens": 5, "n": 2}}, "use repeats"),
    ({"budget.max_cost_usd": 5, "params": {"max_tokens": 5, "best_of": 2}}, "cost more than is reserved"),
    (
        {"budget.max_cost_usd": 5, "params": {"max_tokens": 5, "tools": [{"type": "web_search"}]}},
        "what the gateway does and bills",
    ),
    (
        {
            "budget.max_cost_usd": 5,
            "endpoint.protocol": "responses",
            "params": {"max_output_tokens": 5, "previous_response_id": "r"},
        },
        "what the gateway keeps",
    ),
    ({"params": {"max_tokens": 5, "max_output_tokens": 6}}, "not by several"),
    ({"lane": "batch", "endpoint": {"stream": True}}, "whose replies come in files"),
    ({"lane": "batch-then-live", "endpoint": {"stream": True}}, "whose replies come in files"),
    ({"lane": "batch-then-live", "endpoint": {"name": "my-batch"}}, "must not end with batch"),
    *(
        (
            {"lane": "batch", "batch": {"form": form}, "endpoint": {"protocol": protocol}},
            f"with batch.form: {form}",
        )
        for form, protocol in (("openai", "messages"), ("anthropic", "chat"), ("openrouter", "completions"))
    ),
    (
        {"lane": "batch", "batch": {"form": "openrouter"}, "prompt": {"body_column": "body"}},
        "has a model in each body",
    ),
    (
        {"lane": "batch", "prompt": {"turns": ["a"], "stateful": True}, "endpoint": {"protocol": "responses"}},
        "a batch is done in any order",
    ),
]


@pytest.mark.parametrize(("changes", "says"), BREAKS)
def test_rules_over_several_keys(changes, says):
    """Each rule speaks when its keys do not fit together."""
    assert any(says in mistake.message for mistake in complaints(changed(SMALLEST, changes)))


def test_every_rule_is_broken_by_a_test():
    """No rule is without its case above."""
    assert all(any(says in rule.says for _, says in BREAKS) for rule in RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget.max_cost_usd": 5, "params": {"max_tokens": 5, "n": 1}},
        {"budget.max_cost_usd": 5, "params": {"max_output_tokens": 5}, "endpoint.protocol": "responses"},
        {"endpoint.protocol": "messages", "params": {"max_tokens": 5}},
        {"model": None, "prompt": {"body_column": "b"}, "budget.max_cost_usd": 5},
        {"input": {"query": "select 1 as k", "id": "k"}},
        {"endpoint": {"base_url": "http://h", "headers": {"Authorization": "Bearer ${X}"}}},
        {
            "prompt": {
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]
            }
        },
        {"prompt": {"messages": [{"role": "user", "content": [{"type": "file", "file": "{{ path }}"}]}]}},
        {"repeats": 1, "score": [], "sweep": {}, "prompt.stateful": False},
        {"output.dir": "../elsewhere", "input.where": None},
    ],
)
def test_what_is_allowed_is_allowed(changes):
    """The rules refuse no more than they say."""
    assert "job" == parse(changed(SMALLEST, changes)).name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("name", ".."),
        ("input.table", []),
        ("input.limit", 0),
        ("input.sample", {"rows": 2.5}),
        ("input.csv", {"delimiter": "::"}),
        ("input.csv", {"delimiter": "a"}),
        ("input.csv", {"delimiter": ""}),
        ("input.csv", {"encoding": "utf8000"}),
        ("input.csv", {"encoding": "base64"}),
        ("input.csv", {"quote": "`"}),
        ("limits.stop_at_error_rate", 1.5),
        ("limits.attempt_timeout_seconds", 0),
        ("limits.requests_per_minute", "many"),
        ("limits.adaptive", "no"),
        ("budget.max_cost_usd", 0),
        ("budget.max_cost_usd", True),
        ("budget.keep_credits", "1 usd"),
        ("prices.credits_per_usd", 0),
        ("prices.credits_per_usd", 1e-13),
        ("prices.credits_per_usd", "1e99"),
        ("prompt.messages", [{"role": "user", "content": [{"text": "x"}]}]),
        ("prompt.messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("output.columns", "review_id"),
        ("output.columns", ["a", {"a": "b"}]),
        ("output.dir", ""),
        ("endpoint.headers", {"X-A": "${"}),
        ("endpoint.headers", {"X A": "b"}),
        ("endpoint.headers", {"X-A": "b\nc"}),
        ("endpoint.headers", {"x-a": "b", "X-A": "c"}),
        ("endpoint.headers", {"Host": "b"}),
        ("params", {"seed": 2**64}),
        ("params", {"max_output_tokens": 0}),
        ("params", {"max_output_tokens": "64"}),
    ],
)
def test_values_out_of_bounds_are_refused_at_their_key(key, value):
    """What a value may be is checked where it stands."""
    parent = key.split(".")[0]
    assert any((mistake.key or "").startswith(parent) for mistake in complaints(changed(SMALLEST, {key: value})))


def test_price_tiers_rise():
    """Tiers apply from their threshold on, so thresholds rise."""
    tier = {"above_input_tokens": 5, "input_per_mtok": 1, "output_per_mtok": 1}
    price = {"currency": "usd", "input_per_mtok": 1, "output_per_mtok": 1, "tiers": [tier, tier]}
    (mistake,) = complaints(changed(SMALLEST, {"prices.models.m": price}))
    assert ("prices.models.m.tiers", True) == (mistake.key, "rising" in mistake.message)


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("a: [", "yaml"),
        ("", "yaml"),
        ("- 1", "yaml"),
        ("a: &x [*x]", "yaml"),
        ("a: *x", "yaml"),
        ("%YAML 1.1\n---\na: yes", "yaml"),
        ("a: 1\n---\nb: 2", "yaml"),
        ("a: !!python/object:os.system x", "yaml"),
        ("a: " + "[" * 200, "yaml"),
        ("a = ", "toml"),
        ("a = 1\na = 2", "toml"),
        ("a = 2020-01-01", "toml"),
        ("a = " + "[" * 5000, "toml"),
        ('{"a": 1', "json"),
        ('{"a": 1, "a": 2}', "json"),
        ('{"a": NaN}', "json"),
        ('{"a": "\\ud800"}', "json"),
        ('{"a": ' + "[" * 100_000, "json"),
        ('{"a": ' + "9" * 5000 + "}", "json"),
        ("[]", "json"),
    ],
)
def test_broken_texts_are_told_as_input_errors(text, format):
    """Whatever a parser stumbles over becomes one sentence that names the file."""
    assert {f"job.{format}"} == {mistake.file for mistake in complaints(text, format)}


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("prompt:\n\tuser: x", 2, "indent with blanks, not with tabs"),
        ("prompt:\n  user: {{ text }}", 2, 'a template stands in quotes: "{{ name }}"'),
        ("prompt:\n  user: @text", 2, "put a text that begins with it in quotes"),
        ("prompt:\n  user: Label: x", 2, "put a text that holds a colon and a blank in quotes"),
        ("prompt:\n  user: 'it's'", 2, "put all of it in quotes that it does not hold"),
        ("prompt:\n   user: x\n  system: y", 3, "indent it like the keys that it stands beside"),
        ('prompt:\n  user: "x\nmodel: m', 3, "close the quotes that open in line 2"),
        ("prompt:\n  user: [x\nmodel: m", 3, "close the bracket that opens in line 2"),
        ('prompt:\n  user: "\\d+"', 2, "write '...' in the place of \"...\", or two backslashes"),
    ],
)
def test_what_yaml_trips_over_is_told_with_what_to_write(text, line, advice):
    """The words of a parser alone help nobody who has not written one."""
    told = [mistake for mistake in complaints(text) if advice in mistake.message]
    assert [("job.yaml", line)] == [(mistake.file, mistake.line) for mistake in told]


def test_an_alias_bomb_is_refused_before_it_grows():
    """Nine lines that stand for a billion values cost no memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (mistake,) = complaints("\n".join(lines))
    assert "aliases" in mistake.message


# --- overrides, Python, what is written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("limits.concurrency", "8", lambda job: job.limits.concurrency == 8),
        ("limits.concurrency", 8, lambda job: job.limits.concurrency == 8),
        ("limits.adaptive", "false", lambda job: job.limits.adaptive is False),
        ("budget.credits", "off", lambda job: job.budget.credits == "off"),
        ("model", '"5"', lambda job: job.model == "5"),
        ("prompt.user", "{{ a }}: b # c", lambda job: job.prompt.user == "{{ a }}: b # c"),
        ("output.columns", "[a, b]", lambda job: job.output.columns == {"a": "a", "b": "b"}),
        ("params.stop", "null", lambda job: job.params == {"stop": None}),
        ("prices.credits_per_usd", "0.10", lambda job: str(job.prices.credits_per_usd) == "0.10"),
        (
            'prices.models."gpt-5.4"',
            "{currency: usd, input_per_mtok: 0.1, output_per_mtok: 1}",
            lambda job: job.prices.models["gpt-5.4"].input_per_mtok == Decimal("0.1"),
        ),
    ],
)
def test_overrides_are_yaml_scalars_or_python_values(key, text, expected):
    """--set key=value means what the same text would mean in the file."""
    assert expected(parse(SMALLEST, overrides={key: text}))
    assert expected(parse(SMALLEST).with_overrides({key: text}))


def test_job_in_python_takes_the_same_tree(tmp_path):
    """Keyword arguments are the file's keys; a frame may stand in for the table; mistakes are the same."""
    job = Job(
        model="m", prompt={"user": "x"}, params={"t": Decimal("0.5")}, output={"dir": tmp_path}, base_dir=tmp_path
    )
    assert (tmp_path, tmp_path, {"t": 0.5}) == (job.base_dir, job.output.dir, job.params)
    assert None is parse({"model": "m", "prompt": {"user": "x"}}, needs_table=False).input.table
    with pytest.raises(InputError, match="did you mean model"):
        Job(modle="m", prompt={"user": "x"}, params={"x": object()})
    assert job.public_dict() == pickle.loads(pickle.dumps(job)).public_dict()


def test_the_public_form_reads_back_to_the_same_job():
    """job.json is a job file: what it says is what was run."""
    tree = changed(SMALLEST, {"params": {"max_output_tokens": 5, "t": 0.1}, "output.columns": ["a", {"x": "b"}]})
    job = parse(changed(tree, {"prices": EVERY_KEY["prices"], "input.sample": {"rows": 3}}))
    again = parse(orjson.dumps(job.public_dict()).decode(), "json", source="job.json")
    assert job.public_dict() == again.public_dict()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"limits.concurrency": 1, "budget.keep_credits": 5, "output.dir": "x", "name": "other"}, True),
        ({"endpoint.base_url": "http://h", "input.limit": 5, "prices.credits_per_usd": 3}, True),
        ({"model": "n"}, False),
        ({"prompt.user": "y"}, False),
        ({"prompt.system": "y"}, False),
        ({"params.temperature": 1}, False),
        ({"params.max_output_tokens": 1}, False),
        ({"endpoint.stream": True}, False),
        ({"endpoint.protocol": "responses"}, False),
    ],
)
def test_the_request_fingerprint_follows_what_shapes_requests(changes, same):
    """Limits, budget, output and address are free to change between sessions; requests are not."""
    before = parse(SMALLEST).request_fingerprint()
    assert same is (before == parse(changed(SMALLEST, changes)).request_fingerprint())


def test_the_json_schema_takes_what_the_loader_takes():
    """An editor that follows the schema agrees with us, and its completions have words."""
    validator = jsonschema_rs.validator_for(job_schema())
    assert [] == [error.message for error in validator.iter_errors(EVERY_KEY)]
    assert [] == [
        error.message for error in validator.iter_errors(changed(SMALLEST, {"prompt.user": {"file": "x"}}))
    ]
    assert not validator.is_valid(changed(SMALLEST, {"modle": 1}))
    schema: Any = job_schema()
    values = [value for part in [schema, *schema["$defs"].values()] for value in part["properties"].values()]
    assert all(description(value, schema["$defs"]) for value in values)


# --- laws over any input ---------------------------------------------------------------------------------------


def lines_by_path(tree: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """Path (without list positions) -> line, in the text that `yaml_lines` writes."""
    found: dict[tuple[str, ...], int] = {}
    stack: list[tuple[int, str]] = []
    for number, line in enumerate(yaml_lines(tree), 1):
        match = re.match(r'( *(?:- )?)"([^"]*)":', line)
        if match is None:
            continue
        stack = [entry for entry in stack if entry[0] < len(match[1])] + [(len(match[1]), match[2])]
        found[tuple(name for _, name in stack)] = number
    return found


def renamed(value: Any, path: tuple[str, ...], name: str) -> Any:
    if isinstance(value, list):
        return [renamed(item, path, name) for item in value]
    if not isinstance(value, dict):
        return value
    if len(path) == 1:
        return {name if key == path[0] else key: child for key, child in value.items()}
    return {key: renamed(child, path[1:], name) if key == path[0] else child for key, child in value.items()}


def sections(path: tuple[str, ...]) -> tuple[str, ...]:
    """A key's path as it stands in EVERY_KEY, without list positions."""
    names = {"prices": "gpt-5.4", "models": "gpt-5.4", "service_tiers": "flex"}
    return tuple(names.get(path[at - 1], part) if part == "*" else part for at, part in enumerate(path))


RENAMABLE = sorted(tuple(part for part in sections(path) if part != "*") for path in known_keys(Job))


def test_every_key_is_in_the_test_job():
    """The laws below see every key of the model."""
    assert set(RENAMABLE) <= set(lines_by_path(EVERY_KEY))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(RENAMABLE), st.data())
def test_any_unknown_key_is_told_with_its_line_and_a_suggestion(path, data):
    """One edit away from a key: the key that was meant is named, with the line of the slip."""
    name = path[-1]
    at = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from("abcxyz_"))
    slip = data.draw(
        st.sampled_from(
            [name[:at] + letter + name[at:], name[:at] + name[at + 1 :], name[:at] + letter + name[at + 1 :]]
        )
    )
    tree = renamed(EVERY_KEY, path, slip)
    line = lines_by_path(tree).get((*path[:-1], slip))
    siblings = {other[-1] for other in RENAMABLE if other[:-1] == path[:-1]}
    assume(slip and slip not in siblings and line is not None)
    (mistake,) = [
        m for m in complaints(tree) if m.line == line and (m.key or "").endswith(slip) and "unknown" in m.message
    ]
    assert "did you mean" in mistake.message
    assert len(name) < 4 or f"did you mean {name}?" in mistake.message


PRINTABLE = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], max_codepoint=0x2FFF), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e9, 1e9).map(lambda x: x + 0.0)
    | PRINTABLE
)
PARAMS = st.recursive(
    SCALARS.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTABLE, inner, max_size=3),
    max_leaves=8,
)
JOBS = st.fixed_dictionaries(
    {
        "input": st.fixed_dictionaries({"table": st.just("t.csv")}, optional={"limit": st.integers(1, 10**9)}),
        "model": st.text("abc-./:é", min_size=1, max_size=8),
        "prompt": st.fixed_dictionaries({"user": PRINTABLE}, optional={"system": PRINTABLE}),
    },
    optional={
        "params": st.dictionaries(PRINTABLE.map("p_".__add__), PARAMS, max_size=4),
        "limits": st.fixed_dictionaries({"attempt_timeout_seconds": st.floats(0.001, 1e6)}),
        "prices": st.fixed_dictionaries({"credits_per_usd": st.integers(1, 10**9).map(lambda n: n / 1000)}),
        "share_identical": st.booleans(),
    },
)


@settings(deadline=None, max_examples=60)
@given(JOBS)
def test_the_three_formats_say_the_same(tree):
    """One tree, written as YAML, TOML and JSON, is one job."""
    jobs = [parse(tree, format) for format in ("yaml", "toml", "json")]
    assert jobs[0].public_dict() == jobs[1].public_dict() == jobs[2].public_dict()
    assert jobs[0].params == tree.get("params", {})


TOKENS = st.sampled_from(
    [
        *"{}[]:,-?&*!|>%@`\"'#~<= \n\t\\",
        "a",
        "prompt",
        ": ",
        "- ",
        "---\n",
        "...\n",
        "&a ",
        "*a",
        "<<: ",
        "!!",
        "1e9",
        "0x",
        "%YAML 1.3\n",
        "\u2028",
        "\x85",
        "\x00",
        "\ud800",
        "\ufeff",
        "2020-13-45",
        "!!int x",
        "!!float ",
        ".inf",
        "user: ",
        "{file: ",
    ]
)


@settings(deadline=None, max_examples=250)
@given(
    st.text(max_size=60) | st.lists(TOKENS, max_size=20).map("".join), st.sampled_from(["yaml", "toml", "json"])
)
def test_arbitrary_text_is_a_job_or_an_input_error(text, format):
    """No text makes the loader raise anything else."""
    with pytest.raises(InputError):
        parse(text, format)
    try:
        parse(written(SMALLEST, "yaml"), overrides={text: "1"})
    except InputError as error:
        assert error.mistakes


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(sorted({key for key in RENAMABLE if len(key) <= 2})), PARAMS)
def test_arbitrary_values_are_a_job_or_an_input_error(path, value):
    """Nor does any value at any key."""
    for format in ("yaml", "json"):
        try:
            parse(changed(SMALLEST, {dotted(path): value}), format)
        except InputError as error:
            assert error.mistakes


# --- the reference ---------------------------------------------------------------------------------------------

_WORDS = {
    "string": "text",
    "integer": "whole number",
    "boolean": "true, false",
    "object": "mapping",
    "array": "list",
}


def value_words(value: Mapping[str, Any]) -> str:
    """What stands at a key, from its JSON Schema."""
    if "anyOf" in value:
        return " or ".join(
            dict.fromkeys(value_words(part) for part in value["anyOf"] if part.get("type") != "null")
        )
    if "enum" in value or "const" in value:
        return ", ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    if "$ref" in value.get("items", {}):
        return "list of mappings"
    if value.get("properties"):
        return "{" + ", ".join(value["properties"]) + ": ...}"
    kind = value.get("type", "object" if "$ref" in value else "any value")
    return " or ".join(_WORDS.get(one, one) for one in ([kind] if isinstance(kind, str) else kind))


def description(value: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """A key's own words, or those of the schema it leads to: pydantic writes the same words once."""
    return " ".join((value.get("description") or schemas[value["$ref"].rsplit("/", 1)[1]]["description"]).split())


def default_words(name: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "required"
    default = value.get("default")
    plain = (
        default is not None
        and not isinstance(default, dict | list)
        and "Default:" not in value.get("description", "")
    )
    return f"`{json.dumps(default).strip(chr(34))}`" if plain else ""


def inner_schema(value: Mapping[str, Any]) -> tuple[str, str] | None:
    """The name of the schema that a key leads to, and what stands between the key and its keys."""
    for part, between in [(value, ""), (value.get("items"), "[]"), (value.get("additionalProperties"), ".<name>")]:
        if isinstance(part, dict) and "$ref" in part:
            return part["$ref"].rsplit("/", 1)[1], between
    return next((found for part in value.get("anyOf", ()) if (found := inner_schema(part))), None)


def reference(schema: Mapping[str, Any], schemas: Mapping[str, Any], path: str = "") -> list[str]:
    """One table of keys for a schema, then those of the schemas in it."""
    meaning = [schema["description"], ""] if path else []
    lines = [f"### `{path}`" if path else "### Top keys", "", *meaning]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, value in schema["properties"].items():
        words = description(value, schemas).replace("|", "\\|")
        cells = [f"`{name}`", value_words(value), default_words(name, value, schema), words]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    lines.append("")
    for name, value in schema["properties"].items():
        if found := inner_schema(value):
            lines += reference(schemas[found[0]], schemas, f"{path}.{name}".strip(".") + found[1])
    return lines


def test_the_reference_is_what_the_model_says():
    """docs/job-file.md names every key; UPDATE_DOCS=1 writes its generated part anew."""
    schema: Any = job_schema()
    head, _, rest = REFERENCE.read_text(encoding="utf-8").partition("### Top keys")
    generated = "\n".join(reference(schema, schema["$defs"]))
    if os.environ.get("UPDATE_DOCS"):
        REFERENCE.write_text(head + generated, encoding="utf-8")
        return
    assert generated == "### Top keys" + rest


def test_the_reference_shows_a_job_that_loads():
    """The examples in the reference are jobs, and the sweep has the variants that are named there."""
    text = REFERENCE.read_text(encoding="utf-8")
    example, profile, on_end, sweep, endpoints = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert 600 == parse(example.partition("prices:")[0] + profile).limits.requests_per_minute
    assert "SLACK_WEBHOOK" == parse(example + on_end).on_end.webhook_env
    listed = parse(example + endpoints).at_each_endpoint
    assert ["team-a", "team-b", "other"] == [one.endpoint.name for one in listed]
    assert "label-reviews" == parse(example).name
    names = [variation.name for variation in variations(parse(example + sweep))]
    assert ", ".join(f"`{name}`" for name in names) in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "{job}:4, input.table: there is no file `none.csv` in {folder}; paths are relative to the job file"),
        (
            {"input.table": "no.csv"},
            "--set, input.table: there is no file `no.csv` in {folder}; paths are relative",
        ),
        ({"limts.concurrency": 3}, "--set, limts: unknown key; did you mean limits?"),
        ({"input.query": "selec 1", "input.table": None}, "--set, input.query: "),
    ],
)
def test_what_is_wrong_with_a_key_stands_where_the_key_is_written(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """Also what is found only once the table is opened, and a mapping that an override has made."""
    job = tmp_path / "job.yaml"
    job.write_text("model: m\nprompt: {user: hi}\ninput:\n  table: none.csv\nendpoint: {auth: none}\n")
    with ExitStack() as stack, pytest.raises(InputError) as refused:
        load(job, None, RunOptions(overrides=options), stack)
    assert str(refused.value).startswith(told.format(job=job, folder=tmp_path))


def test_what_is_wrong_with_templates_graders_and_columns_comes_at_once_with_its_lines(tmp_path: Path) -> None:
    """What is known only beside the table is told like the rest: all of it, each where it is written."""
    (tmp_path / "t.csv").write_text("id,text\n1,a\n")
    job = tmp_path / "job.yaml"
    job.write_text(
        "input: {table: t.csv, id: id}\nendpoint: {auth: none}\nsweep:\n  who:\n    a: {model: m}\n"
        '    b:\n      model: n\n      prompt: {user: "{{ b }}"}\nprompt:\n  user: "{{ a }}"\n'
        'score:\n  - {name: on, grader: exact, expected: x}\n  - {name: two, grader: exact, expected: "{{ c }}"}\n'
        "output: {columns: [d, text]}\n"
    )
    with ExitStack() as stack, pytest.raises(InputError) as refused:
        load(job, None, RunOptions(), stack)
    assert [
        (8, "prompt.user", "'b'"),
        (10, "prompt.user", "'a'"),
        (13, "score[1].expected", "'c'"),
        (14, "output.columns", "'d'"),
    ] == [(one.line, one.key, one.message.split("no column ")[1][:3]) for one in refused.value.mistakes]


def test_a_column_that_is_renamed_to_a_taken_name_is_told_its_own(tmp_path: Path) -> None:
    """What it says to write instead is right as it stands: the input's column is not called like the result's."""
    (tmp_path / "t.csv").write_text("id,text\n1,a\n")
    job = tmp_path / "job.yaml"
    text = "input: {table: t.csv, id: id}\nendpoint: {auth: none}\nmodel: m\nprompt: {user: hi}\n"
    job.write_text(text + "output: {columns: {status: text}}\n")
    with ExitStack() as stack, pytest.raises(InputError) as refused:
        load(job, None, RunOptions(), stack)
    written = str(refused.value).rsplit("output.columns: ", 1)[1]
    assert "{input_status: text}" == written
    job.write_text(f"{text}output: {{columns: {written}}}\n")
    with ExitStack() as stack:
        assert {"input_status": "text"} == load(job, None, RunOptions(), stack).carried
