"""Recorded replies, read anew: what an attempt's body says under the protocol that was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.load.job.job import Job
from crun_batch.load.job.judges import judge_jobs
from crun_batch.load.job.sweep import variations
from crun_batch.records import Reply, Response
from crun_batch.store.events import recorded_bytes
from crun_batch.workload.packed_reply import read_packed
from crun_batch.workload.packing import FORMATS

BODIES = ("reply_body", "reply_base64")
"""The columns of attempts that hold a reply as it came."""


Endpoints = Mapping[tuple[str | None, str | None], EndpointSpec]
"""(judge, variant) -> where it is asked; one of the two is None."""


def recorded_reply(endpoints: Endpoints, attempt: Mapping[str, Any]) -> Reply | None:
    """What the recorded reply says, where it is an answer."""
    if attempt["outcome"] != "done" or attempt["error_kind"] is not None:
        return None
    asked = endpoints.get((attempt["judge"], attempt["variant"] if attempt["judge"] is None else None))
    if asked is None:
        return None
    response = Response(attempt["http_status"] or 200, {}, raw_reply(attempt))
    found = check(PROTOCOLS[asked.protocol], response, stream=asked.stream)
    if not isinstance(found, Reply):
        return None
    place = attempt.get("pack_place")
    return found if place is None else _of_row(found, attempt["pack_rows"], place)


def _of_row(whole: Reply, rows: int, place: int) -> Reply:
    """What a reply to several rows says to one of them, in whichever form they were asked."""
    is_cut = whole.finish_reason == "length"
    said = (read_packed(whole.text, rows, form, is_cut=is_cut).answers[place - 1].text for form in FORMATS)
    text = next((text for text in said if text is not None), None)
    return structs.replace(whole, text=text, finish_reason="stop")


def endpoints_of(job: Job) -> Endpoints:
    """Where each variant and each judge of a job is asked. Raises InputError."""
    asked: dict[tuple[str | None, str | None], EndpointSpec] = {}
    asked |= {(None, one.name): one.job.endpoint for one in variations(job)}
    return asked | {(judge.spec.name, None): judge.job.endpoint for judge in judge_jobs(job)}


def raw_reply(attempt: Mapping[str, Any]) -> bytes:
    """The reply as it came; empty where none did."""
    return recorded_bytes(*(attempt[name] for name in BODIES))
