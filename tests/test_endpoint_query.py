"""`endpoint.query`: what follows '?' in the address of every call."""

from __future__ import annotations

import asyncio

import httpx
import pytest

import crun_batch
from crun_batch.errors import InputError
from crun_batch.gateway.control import ControlClient, list_models
from crun_batch.load.job.job import Job
from crun_batch.workload.endpoint import endpoint_of
from crun_batch.workload.target import Target


def job(**endpoint):
    return Job(
        name="law",
        input={"id": "id"},
        endpoint={"base_url": "https://example.test/openai/v1", "auth": "none", **endpoint},
        model="m",
        prompt={"user": "{{ id }}"},
    )


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ({}, ""),
        ({"api-version": "2024-10-21"}, "?api-version=2024-10-21"),
        ({"a": "x y&z", "n": 3}, "?a=x+y%26z&n=3"),
    ],
)
def test_every_request_and_every_control_call_carries_the_query(written, sent):
    asked = job(query=written)
    assert f"https://example.test/openai/v1/chat/completions{sent}" == Target(0, "law", asked).url
    seen = []

    def answer(request):
        seen.append(str(request.url))
        return httpx.Response(200, json={"data": [{"id": "m"}], "has_more": len(seen) == 1, "last_id": "m"})

    async def listed():
        endpoint = endpoint_of(asked, {}, simulated=False)
        transport = httpx.MockTransport(answer)
        url = asked.endpoint.base_url + endpoint.query
        async with ControlClient(url, endpoint.headers, transport=transport) as gateway:
            return await list_models(gateway)

    asyncio.run(listed())
    assert f"https://example.test/openai/v1/models{sent}" == seen[0]
    assert seen[1] == f"{seen[0]}{'&' if sent else '?'}after_id=m"


def test_a_date_in_yaml_is_the_text_that_was_written(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "input: {table: t.csv}\nmodel: m\nprompt: {user: hi}\n"
        "endpoint: {base_url: 'http://127.0.0.1:9', query: {api-version: 2024-10-21}}\n"
    )
    assert {"api-version": "2024-10-21"} == crun_batch.load_job(path).endpoint.query


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (
            {"base_url": "https://h/v1?api-version=1"},
            r"what follows it \(api-version\) is written in endpoint.query",
        ),
        ({"base_url": "https://h/v1?"}, "endpoint.query"),
        ({"base_url": "https://h/v1#x"}, "without '#'"),
        ({"query": {"api-key": "s3cret"}}, "endpoint.api_key_env"),
        ({"query": {"key": "s3cret"}}, "endpoint.api_key_env"),
        ({"query": {"deep": ["a"]}}, "texts as values"),
        ({"query": "a=b"}, "must be a mapping"),
    ],
)
def test_what_is_refused_says_what_to_write_and_shows_no_key(endpoint, said):
    with pytest.raises(InputError, match=said) as caught:
        job(**endpoint)
    assert "s3cret" not in str(caught.value)
