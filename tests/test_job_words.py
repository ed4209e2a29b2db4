"""What is said of a job file that other tools have shaped: where each thing lives here, in our own words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_job_file import EVERY_KEY, RENAMABLE

from crun_batch.errors import InputError
from crun_batch.load.job.foreign_names import PLACES, our_key
from crun_batch.load.job.job import Job
from crun_batch.load.job.mistakes import known_keys
from crun_batch.load.job.places import dotted

SMALLEST = {"model": "m", "prompt": {"user": "x"}}
ODD: list[Any] = [
    None,
    [],
    {},
    "",
    "x",
    "a b",
    1,
    -1,
    1.5,
    True,
    [1],
    {"a": 1},
    [[1]],
    [{"a": 1}],
    ["a", "b"],
    "[::1",
]


def complaints(**keys: Any) -> dict[str, str]:
    """Key -> complaint."""
    with pytest.raises(InputError) as caught:
        Job(**{**SMALLEST, **keys})
    return {str(mistake.key): mistake.message for mistake in caught.value.mistakes}


def test_every_place_is_a_key_of_ours() -> None:
    """The table leads to keys that exist, or to a param that is passed through."""
    known = {dotted(key) for key in known_keys(Job)}
    assert [] == [key for key in PLACES.values() if key not in known and not key.startswith("params.")]


@pytest.mark.parametrize("section", [None, "limits", "input", "output", "budget", "prompt"])
def test_what_other_tools_call_otherwise_is_led_to_its_place(section: str | None) -> None:
    """Wherever it is written, the complaint names our key for it, or the key beside it that was slipped."""
    own = {key[-1] for key in known_keys(Job) if key[:-1] == (() if section is None else (section,))}
    wrong = {}
    for name in sorted(set(PLACES) - own - {"apikey"}):
        tree = {name: 1} if section is None else {section: {name: 1}}
        tree |= {"prompt": {"user": "x", name: 1}} if section == "prompt" else {}
        said = complaints(**tree)[name if section is None else f"{section}.{name}"]
        if f"it is {our_key(name)} here" not in said and "did you mean" not in said:
            wrong[name] = said
    assert {} == wrong


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"retries": 3}, "retries", "unknown key; it is limits.max_attempts here"),
        ({"max_retries": 3}, "max_retries", "unknown key; it is limits.max_attempts here"),
        ({"temperature": 0}, "temperature", "unknown key; it is params.temperature here"),
        ({"limits": {"timeout": 3}}, "limits.timeout", "unknown key; it is limits.attempt_timeout_seconds here"),
        ({"api_key": "k"}, "api_key", "a key has no place in a job file"),
        ({"system_prompt": "x"}, "system_prompt", "unknown key; it is prompt.system here"),
        ({"maxRetries": 3}, "maxRetries", "unknown key; it is limits.max_attempts here"),
        ({"limits": {"concurency": 3}}, "limits.concurency", "unknown key; did you mean concurrency?"),
        ({"concurency": 3}, "concurency", "unknown key; did you mean limits.concurrency?"),
        ({"zzz": 3}, "zzz", "unknown key; allowed: name, input"),
        ({"model": ["a", "b"]}, "model", "found a list; several values are an axis: sweep: {model: [...]}"),
        ({"endpoint": {"protocol": ["chat"]}}, "endpoint.protocol", "sweep: {endpoint.protocol: [...]}"),
        ({"params": {"temperature": [0, 1]}}, "params.temperature", "sweep: {params.temperature: [...]}"),
        ({"endpoint": {"base_url": "http://[::1"}}, "endpoint.base_url", "must be an http:// or https:// address"),
        ({"endpoint": {"base_url": "http://a/chat/completions/"}}, "endpoint.base_url", "must end before /chat/"),
        ({"endpoint": {"base_url": "http://a/v1/responses"}}, "endpoint.base_url", "must end before /responses"),
        ({"endpoint": {"base_url": "http://a/v1/messages"}}, "endpoint.base_url", "must end before /messages"),
        ({"prompt": "{{ text }}"}, "prompt", "found '{{ text }}'; a text is its user's part: prompt: {user: ...}"),
        (
            {"prices": {"models": {"m": {"input": 5}}}},
            "prices.models.m.input",
            "unknown key; did you mean input_per_mtok?",
        ),
        ({"limits": {"lane": 5}}, "limits.lane", "lane stands at the top of the job; allowed: concurrency"),
        ({"endpoint": {"base_url": "http://a:99999"}}, "endpoint.base_url", "a port up to 65535"),
    ],
)  # fmt: skip
def test_a_complaint_says_where_it_lives_here(keys: dict[str, Any], key: str, says: str) -> None:
    assert says in complaints(**keys)[key]


def with_value(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(EVERY_KEY)
    place: Any = tree
    for part in path[:-1]:
        place = place[0] if isinstance(place, list) else place
        place = place[part]
    place = place[0] if isinstance(place, list) else place
    place[path[-1]] = value
    return tree


@pytest.mark.parametrize("path", RENAMABLE, ids=".".join)
def test_any_value_of_any_key_is_a_job_or_a_complaint_in_our_words(path: tuple[str, ...]) -> None:
    """No value ends in a bug of ours, and no library's words come through."""
    for value in ODD:
        try:
            Job(**with_value(path, value))
        except InputError as error:
            for mistake in error.mistakes:
                foreign = ("Value error", "Input should", "pydantic", "Error", "IPv6", "NoneType")
                assert not any(word in mistake.message for word in foreign), (path, value, mistake)
