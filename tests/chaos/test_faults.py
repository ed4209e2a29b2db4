"""Whatever the gateway answers: one attempt record is one POST, and each row ends with what it met."""

from __future__ import annotations

import time

import polars as pl
import pytest

from crun_batch import run
from crun_batch.load.job.job import Job
from crun_batch.simulator import SimulatorProcess
from crun_batch.simulator.settings import Settings
from crun_batch.store.verify import verify

from .hostile_server import REPLIES, RIGHT, HostileGateway, answer

ENVIRON = {"FAULTS_KEY": "ak_sim_faults"}
OK = ("ok", None, "done")
SILENT = ("invalid", None, "done")
BROKEN = ("error", "bad_reply", "unknown")
UNREADABLE = ("error", "bad_reply", "done")
REFUSED = ("error", "bad_request", "rejected")
HOSTILE = {
    "right": OK,
    "html_type": OK,
    "no_type": OK,
    "gzip_bomb": BROKEN,
    "broken_gzip": BROKEN,
    "deep_json": BROKEN,
    "deep_object": BROKEN,
    "bad_utf8": BROKEN,
    "lone_surrogate": UNREADABLE,
    "nul": OK,
    "huge_count": OK,
    "huge_digits": BROKEN,
    "negative_count": OK,
    "nan_count": OK,
    "fraction_count": OK,
    "text_is_a_list": SILENT,
    "text_is_a_number": SILENT,
    "no_choices": BROKEN,
    "null": BROKEN,
    "empty": BROKEN,
    "no_content": BROKEN,
    "html_page": BROKEN,
    "error_in_200": ("error", "server", "rejected"),
    "crun_error_in_200": ("error", "server", "rejected"),
    "html_error": ("error", "server", "rejected"),
    "deep_error": REFUSED,
    "formula": OK,
}
"""Case of the hostile gateway -> (status, error kind, outcome) of a single attempt."""
SIMULATED = {
    "400": ("error", "bad_request", 1),
    "404": ("error", "not_found", 1),
    "413": ("error", "too_long", 1),
    "422": ("error", "bad_request", 1),
    "501": ("error", "server", 1),
    "content_filter": ("refused", "content_filter", 1),
    "408": ("error", "timeout", 3),
    "500": ("error", "server", 3),
    "502": ("error", "server", 3),
    "504": ("error", "timeout", 3),
    "code_500": ("error", "server", 3),
    "error_in_200": ("error", "server", 3),
    "429*2": ("ok", None, 3),
    "503*2": ("ok", None, 3),
    "529*2": ("ok", None, 3),
    "reset_before": ("error", "connection", 2),
    "close_before": ("error", "connection", 2),
    "reset_after": ("error", "connection", 2),
    "close": ("error", "connection", 2),
    "stall": ("error", "timeout", 2),
    "stall_body": ("error", "timeout", 2),
    "drip": ("error", "timeout", 2),
    "truncated": ("error", "connection", 2),
    "cut_stream": ("error", "bad_reply", 2),
    "malformed": ("error", "bad_reply", 2),
    "empty": ("error", "bad_reply", 2),
    "wrong_type": ("ok", None, 1),
}
"""Fault of the simulator, for ever unless it says how often -> (status, error kind, attempts)."""


def job(base_url, folder, **limits):
    return Job(
        name="faults",
        input={"id": "id"},
        endpoint={"base_url": base_url, "api_key_env": "FAULTS_KEY"},
        model="gpt-5.4",
        prompt={"user": "{{ text }}"},
        params={"max_output_tokens": 40},
        limits={"concurrency": 8, "stop_at_error_rate": 1.0, "attempt_timeout_seconds": 2, **limits},
        budget={"credits": "off"},
        output={"dir": str(folder)},
    )


def table(texts):
    return pl.DataFrame({"id": list(texts), "text": list(texts.values())})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    with HostileGateway() as gateway:
        texts = {name: f"case {name}" for name in HOSTILE}
        limits = {"max_attempts": 1, "max_unknown_retries": 0, "attempt_timeout_seconds": 20}
        ended = run(job(gateway.base_url, folder, **limits), table=table(texts), environ=ENVIRON)
        yield gateway, ended


def test_each_hostile_reply_has_its_class(hostile):
    """Status, kind and outcome of every row, as the table says; nothing stops the run."""
    _, ended = hostile
    results = ended.results().collect()
    outcomes = dict(ended.attempts().select("id", "outcome").collect().iter_rows())
    found = {
        row["id"]: (row["status"], row["error_kind"], outcomes[row["id"]]) for row in results.iter_rows(named=True)
    }
    assert found == HOSTILE


def test_one_attempt_is_one_post_and_no_redirect_is_followed(hostile):
    gateway, ended = hostile
    assert gateway.posts == dict.fromkeys(HOSTILE, 1)
    assert len(HOSTILE) == ended.attempts().collect().height


@pytest.mark.parametrize("case", ["redirect", "redirect_post", "redirect_forever"])
def test_a_redirect_stops_the_run_and_is_not_followed(tmp_path, case):
    """The address is wrong for every row: exit 5 after one POST, and none where the redirect points."""
    with HostileGateway() as gateway:
        ended = run(job(gateway.base_url, tmp_path / "run"), table=table({"a": f"case {case}"}), environ=ENVIRON)
    assert (5, {case: 1}) == (ended.exit_code, dict(gateway.posts))
    assert "redirect" in ended.stop_reason


REDIRECTS = {"redirect", "redirect_post", "redirect_forever"}


@pytest.mark.parametrize(
    ("protocol", "stream"),
    [(name, stream) for name in RIGHT for stream in (False, True) if (name, stream) != ("completions", True)],
)
def test_no_hostile_reply_harms_any_protocol(tmp_path, protocol, stream):
    """Plain or streamed: one POST and one attempt each, every row ends, nothing stops, the files are whole."""
    right = f"right_{protocol}"
    cases = [right, *sorted(REPLIES.keys() - REDIRECTS - {right})]
    # few at once: the right reply, which is the first, must be among the first twenty that end
    limits = {"max_attempts": 1, "max_unknown_retries": 0, "attempt_timeout_seconds": 20, "concurrency": 3}
    with HostileGateway() as gateway:
        asked = job(gateway.base_url, tmp_path / "run", **limits)
        asked = asked.with_overrides({"endpoint.protocol": protocol, "endpoint.stream": stream})
        began = time.monotonic()
        ended = run(asked, table=table({name: f"case {name}" for name in cases}), environ=ENVIRON)
    assert time.monotonic() - began < 60
    assert ended.exit_code in (0, 1)
    assert dict.fromkeys(cases, 1) == gateway.posts
    assert sorted(cases) == sorted(ended.attempts().collect()["id"])
    statuses = dict(ended.results().select("id", "status").collect().iter_rows())
    assert set(cases) == statuses.keys()
    assert "ok" == statuses[right]
    assert {"ok", "invalid", "error"} >= set(statuses.values())
    assert [] == [found for found in verify(ended.directory, data=True) if found.severity == "error"]


def test_hostile_replies_are_kept_as_evidence_and_the_files_are_whole(hostile):
    _, ended = hostile
    bodies = {row["id"]: row for row in ended.attempts().collect().iter_rows(named=True)}
    assert answer("=HYPERLINK(1)").decode() == bodies["formula"]["reply_body"]
    assert 200_000 == len(bodies["deep_json"]["reply_body"])
    assert bodies["bad_utf8"]["reply_base64"] is not None
    assert len(bodies["gzip_bomb"]["reply_body"]) <= 256 * 2**10
    assert [] == [found for found in verify(ended.directory, data=True) if found.severity == "error"]


def test_an_answer_that_is_missing_scores_0_beside_one_that_is_right(tmp_path):
    """Replies without a text are not left out of the mean, are not plainly ok, and say what is the matter."""
    cases = ["right", "text_is_a_list", "text_is_a_number"]
    with HostileGateway() as gateway:
        scored = job(gateway.base_url, tmp_path / "run").with_overrides(
            {"score": [{"name": "said", "grader": "regex", "pattern": "."}]}
        )
        ended = run(scored, table=table({name: f"case {name}" for name in cases}), environ=ENVIRON)
    found = ended.results().select("id", "score_said", "error_message").collect().sort("id").rows()
    silence = "the reply holds no text"
    assert [("right", 1.0, None), ("text_is_a_list", 0.0, silence), ("text_is_a_number", 0.0, silence)] == found
    assert 1 == ended.exit_code


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "run"
    settings = Settings(stall_seconds=30, drip_seconds=0.05, fault_retry_after_seconds=0.05)
    with SimulatorProcess(settings) as gateway:
        texts = {name: f"Say yes. [[fault:{name if '*' in name else name + '*always'}]]" for name in SIMULATED}
        limits = {"max_attempts": 3, "max_unknown_retries": 1}
        ended = run(job(gateway.base_url, folder, **limits), table=table(texts), environ=ENVIRON)
        yield gateway, ended


def test_each_fault_ends_its_row_as_the_table_says(simulated):
    _, ended = simulated
    rows = ended.results().select("id", "status", "error_kind", "attempt_count").collect().iter_rows()
    found = {
        name: (status if status != "truncated" else "ok", kind, attempts) for name, status, kind, attempts in rows
    }
    assert found == SIMULATED


def test_the_gateway_counts_as_many_requests_as_there_are_attempts(simulated):
    """No hidden retry, in no library: ratio 1.000."""
    gateway, ended = simulated
    assert gateway.stats()["paths"]["/api/v1/chat/completions"] == ended.attempts().collect().height


def test_no_attempt_outlives_its_deadline(simulated):
    """Stalls and drips end within the deadline and a second."""
    _, ended = simulated
    assert ended.attempts().collect()["latency_seconds"].max() <= 3.0


def test_the_bill_is_bounded_by_what_is_recorded(simulated):
    """The gateway charged at least each answer, at most each attempt that may have been billed."""
    gateway, ended = simulated
    outcomes = ended.attempts().collect()["outcome"].value_counts()
    counts = dict(outcomes.iter_rows())
    assert counts["done"] <= gateway.ledger()["count"] <= counts["done"] + counts["unknown"]
