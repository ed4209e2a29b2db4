"""Waits that only the body of a refusal tells, and which of several tellings counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.told_waits import wait_told
from crun_batch.gateway.troubles import Troubles
from crun_batch.records import Failure, Halt, Response

GOOGLE = {
    "code": 429,
    "message": "You exceeded your current quota",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "51s"},
    ],
}


def refused(body: object, **headers: str) -> Failure:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    failure = check(PROTOCOLS["chat"], Response(429, named, content), stream=False, now_epoch_seconds=1e9)
    assert isinstance(failure, Failure)
    return failure


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Please try again in 7.66s. Visit us", 7.66),
        ("Please retry in 20.5s.", 20.5),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1h2m3.5s", 3723.5),
        ("try again in 120ms", 0.12),
        ("Please retry after 26 seconds.", 26.0),
        ("No deployments available, Try again in 60 seconds. Passed model=m", 60.0),
        ("retrying in 1 minute 30 seconds", 90.0),
        ("Please retry after 1 day", 86_400.0),
        ("quota of the month is used up, try again in 12 days", 12 * 86_400.0),
        ("too many requests (Retry-After: 3s)", 3.0),
        ("retry_after=5", 5.0),
        ("Rate limit of 10 per 60s exceeded for UserByMinute. Please wait 42 seconds before retrying.", 42.0),
        (
            "Rate limit of 50 per 86400s exceeded for UserByDay. Please wait 53281 seconds before retrying.",
            53281.0,
        ),
        ("Please try your request again in 20 secs", 20.0),
        ("Please retry your request after 2 min", 120.0),
        ("the limit resets in 1 hour, 2 minutes and 3 seconds", 3723.0),
        ("Quota resets after 5h30m.", 19_800.0),
        ("the model is available again in about 90 Sec.", 90.0),
        ("wait at least 7.5s", 7.5),
        ("Retry after 1 hr", 3600.0),
        ("PLEASE TRY AGAIN IN 3S", 3.0),
        ("Limit: 3 requests per minute", None),
        ("we waited 20 seconds for the model", None),
        ("try again later", None),
        ("retry after 5 models have answered", None),
        ("", None),
    ],
)
def test_words_tell_a_wait(message, seconds):
    assert seconds == pytest.approx(wait_told((), message))
    assert seconds == pytest.approx(refused({"error": {"message": message}}).retry_after_seconds)
    assert seconds == pytest.approx(refused(message or "-").retry_after_seconds)


@pytest.mark.parametrize(
    ("place", "seconds"),
    [
        ({"retryDelay": "51s"}, 51.0),
        ({"retryDelay": {"seconds": 3, "nanos": 500_000_000}}, 3.5),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": 7}, 7.0),
        ({"retry_after": "7 seconds"}, 7.0),
        ({"retry_after": "PT7S"}, 7.0),
        ({"retryAfterSeconds": 7.5}, 7.5),
        ({"Retry-After": "7"}, 7.0),
        ({"wait_seconds": 7}, 7.0),
        ({"retry_after_ms": 250}, 0.25),
        ({"resets_at": 1790003600, "resets_in_seconds": 3600}, 3600.0),
        ({"retry_after": 1e9}, 31 * 86_400.0),
        ({"retry_after": True}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": "soon"}, None),
    ],
)
def test_keys_tell_a_wait(place, seconds):
    assert seconds == pytest.approx(refused({"error": {"message": "no", **place}}).retry_after_seconds)
    assert seconds == pytest.approx(refused({"error": {"message": "no", "details": [place]}}).retry_after_seconds)


def test_googles_refusal_names_its_wait_and_the_quota_of_the_day():
    failure = refused([{"error": GOOGLE}])
    assert 51.0 == failure.retry_after_seconds
    assert "You exceeded your current quota (GenerateRequestsPerDay" in failure.message


def test_retry_after_decides_then_the_body_then_what_the_headers_say_is_used_up():
    """A wait of a second beside a reset in six minutes is a second; a reset alone stands in, up to a minute."""
    resets = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0s"}
    assert 1.0 == refused({"error": {"message": "try again in 9s"}}, retry_after="1", **resets).retry_after_seconds
    assert 9.0 == refused({"error": {"message": "try again in 9s"}}, **resets).retry_after_seconds
    assert 60.0 == refused({"error": {"message": "no"}}, **resets).retry_after_seconds
    resets["x_ratelimit_remaining_tokens"] = "5"
    assert refused({"error": {"message": "no"}}, **resets).retry_after_seconds is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3s", 3.0),
        ("3", 3.0),
        (" 3 ", 3.0),
        ("3.5", 3.5),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("3 s", 3.0),
        ("3 seconds", 3.0),
        ("3S", 3.0),
        ("3 sec", 3.0),
        ("1 minute", 60.0),
        ("1m30s", 90.0),
        ("1 minute 30 seconds", 90.0),
        ("PT3S", 3.0),
        ("PT1M30S", 90.0),
        ("Sun, 09 Sep 2001 01:46:43 GMT", 3.0),
        ("soon", None),
        ("-3", None),
        ("3 apples", None),
        ("", None),
    ],
)
def test_a_retry_after_with_a_unit_is_read_though_no_standard_has_it(said, seconds):
    assert seconds == refused({"error": {"message": "no"}}, retry_after=said).retry_after_seconds


@given(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_no_text_makes_it_fail(message, other):
    seconds = wait_told(({"retry_after": other},), message)
    assert seconds is None or 0.0 <= seconds <= 31 * 86_400.0


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"retry_after": "144000"}, " (next try after 40 hours)"),
        ({"retry_after": "7100"}, " (next try after 118 minutes)"),
        ({"retry_after": "90"}, " (next try after 90 seconds)"),
        ({"retry_after_ms": "259200000"}, " (next try after 72 hours)"),
        ({"retry_after": "20"}, ""),
        ({}, ""),
    ],
)
def test_a_stop_names_the_wait_that_it_did_not_wait_out_once_beside_the_gateways_words(headers, words):
    """Each row was told another number of seconds; the words stand once, with the last wait."""
    troubles = Troubles()
    troubles.failed(None, 0.0, refused({"error": {"message": "quota of the day"}}, retry_after="500"))
    troubles.failed(None, 1.0, refused({"error": {"message": "quota of the day"}}, **headers))
    halt = troubles.named(Halt(5, "no success for 30 minutes"))
    assert f"no success for 30 minutes; what failed last: HTTP 429: quota of the day{words}" == halt.words
