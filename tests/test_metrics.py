"""Figures of a running session: as Prometheus reads them, and through OpenTelemetry."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import run_kit
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families
from test_coordinated_runs import coordinated
from test_workers import job_file

import crun_batch
from crun_batch.errors import InputError
from crun_batch.scale.figures import FiguresOfAll
from crun_batch.session import open_telemetry
from crun_batch.session.metrics import BUCKETS_SECONDS, FAMILIES, Figures, LatencyHistogram
from crun_batch.session.prometheus import metrics_text
from crun_batch.simulator.process import SimulatorProcess

SECRET_PROMPT = "prompt-that-nobody-may-see"
ROWS = 60


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(latency_seconds=0.05) as process:
        yield process


def fetched(url: str, host: str | None = None) -> str:
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as reply:
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        return str(reply.read().decode())


class Scraper:
    """Reads the figures again and again while a run goes on, as soon as it says where they are."""

    def __init__(self, *, of_each: bool = False) -> None:
        self.texts: list[str] = []
        self.of_each: list[str] = [] if not of_each else [""]
        """The figures of each worker, where they are wanted."""
        self.address = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def say(self, sentence: str) -> None:
        if sentence.startswith("metrics: "):
            self.address = sentence.split()[1]
            self._thread.start()

    def _scrape(self) -> None:
        while not self._over.is_set():
            try:
                self.texts.append(fetched(self.address))
                if self.of_each:
                    self.of_each.append(fetched(f"{self.address}/workers"))
            except (OSError, http.client.HTTPException):
                return
            self._over.wait(0.02)

    def stop(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def values(self, name: str) -> list[dict[tuple[tuple[str, str], ...], float]]:
        """Of each reading: labels -> value of a family."""
        return [
            {
                tuple(sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name
            }
            for text in self.texts
        ]


@pytest.fixture
def scraped(gateway: SimulatorProcess, tmp_path: Path) -> Iterator[tuple[Scraper, crun_batch.Run]]:
    scraper = Scraper()
    table = run_kit.texts(ROWS).with_columns(text=run_kit.pl.lit(SECRET_PROMPT) + run_kit.pl.col("id"))
    job = run_kit.job(gateway, tmp_path, budget={"max_cost_credits": 500}, limits={"concurrency": 8})
    try:
        yield scraper, run_kit.run(job, table, metrics_port=0, say=scraper.say)
    finally:
        scraper.stop()


def test_figures_are_what_prometheus_reads_and_what_the_run_did(scraped: tuple[Scraper, crun_batch.Run]) -> None:
    """By its own parser, at every moment: rows sum up, nothing goes back, nothing is above its limit."""
    scraper, done = scraped
    assert 0 == done.exit_code and len(scraper.texts) > 3
    families = {family.name: family for family in text_string_to_metric_families(scraper.texts[-1])}
    assert {"crun_batch_run_info", "crun_batch_attempt_seconds"} <= set(families)
    assert {"counter", "gauge", "histogram"} == {family.type for family in families.values()}
    assert all(family.documentation for family in families.values())

    for rows in scraper.values("crun_batch_rows"):
        assert ROWS == sum(rows.values())
    for name in ("crun_batch_attempts_total", "crun_batch_tokens_total", "crun_batch_cost_total"):
        totals = [sum(values.values()) for values in scraper.values(name)]
        assert totals == sorted(totals) and totals[-1] > 0
    assert {8.0} == {value for values in scraper.values("crun_batch_concurrency") for value in values.values()}
    flying = [values[()] for values in scraper.values("crun_batch_in_flight")]
    assert max(flying) <= 8.0 and any(flying)
    credits_ = (("unit", "credits"),)
    for held, cost, cap in zip(
        *map(scraper.values, ("crun_batch_held", "crun_batch_cost_total", "crun_batch_cap")), strict=True
    ):
        assert 500.0 == cap[credits_] >= held[credits_] + cost.get(credits_, 0.0)
    dollars = (("unit", "usd"),)
    assert not any(dollars in cost for cost in scraper.values("crun_batch_cost_total")), "unknown is not 0"
    assert dollars not in scraper.values("crun_batch_held")[-1], "unknown is not 0"


def test_the_histogram_counts_each_request_once_in_the_first_bucket_that_holds_it(
    scraped: tuple[Scraper, crun_batch.Run],
) -> None:
    scraper, _ = scraped
    buckets = scraper.values("crun_batch_attempt_seconds_bucket")[-1]
    by_end = [buckets[(("le", end),)] for end in (*map(str, BUCKETS_SECONDS), "+Inf")]
    count = scraper.values("crun_batch_attempt_seconds_count")[-1][()]
    attempts = scraper.values("crun_batch_attempts_total")[-1]
    assert by_end == sorted(by_end) and count == by_end[-1] >= sum(attempts.values())
    total = scraper.values("crun_batch_attempt_seconds_sum")[-1][()]
    assert 0.05 * count <= total < 5.0 * count and 0.0 == by_end[0]


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.050001, 1.0, 600.0, 601.0])
def test_a_bucket_holds_what_takes_as_long_as_its_end_or_less(seconds: float) -> None:
    histogram = LatencyHistogram([0] * (len(BUCKETS_SECONDS) + 1))
    histogram.observe(seconds)
    first = next((n for n, end in enumerate(BUCKETS_SECONDS) if seconds <= end), len(BUCKETS_SECONDS))
    assert [int(n == first) for n in range(len(BUCKETS_SECONDS) + 1)] == histogram.counts


def test_no_key_no_prompt_and_no_row_is_in_the_figures(scraped: tuple[Scraper, crun_batch.Run]) -> None:
    scraper, _ = scraped
    whole = "\n".join(scraper.texts)
    assert SECRET_PROMPT not in whole and run_kit.ENVIRON["SIM_KEY"] not in whole
    labels = {
        label
        for family in text_string_to_metric_families(whole)
        for sample in family.samples
        for label in sample.labels
    }
    assert {"job", "status", "outcome", "kind", "unit", "le"} >= labels


def test_a_name_with_quotes_and_line_breaks_stays_one_label() -> None:
    figures = Figures({}, LatencyHistogram([0] * (len(BUCKETS_SECONDS) + 1)), 'a "b"\\\nc')
    [family] = [
        one for one in text_string_to_metric_families(metrics_text([({}, figures)])) if one.name.endswith("info")
    ]
    assert 'a "b"\\\nc' == family.samples[0].labels["job"]


def summed(text: str, name: str, **labels: str) -> float:
    """All samples of this name that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_figures_of_several_workers_are_added_up_or_are_alike() -> None:
    """Divided among them: the sum. What each has in full: the largest. The cap is the job's and no part of it."""
    counts = [0] * (len(BUCKETS_SECONDS) + 1)
    samples = {
        "crun_batch_rows": [({"status": "ok"}, "3")],
        "crun_batch_cost": [({"unit": "credits"}, "0.1")],
        "crun_batch_cap": [({"unit": "credits"}, "5")],
        "crun_batch_concurrency": [({}, "8")],
    }
    more = {
        **samples,
        "crun_batch_row_errors": [({"kind": "timeout"}, "1")],
        "crun_batch_concurrency": [({}, "9")],
    }
    of_all = FiguresOfAll("job", [({"unit": "credits"}, "10")])
    assert 10 == summed(of_all.pages["/metrics"](), "crun_batch_cap"), "before any worker has told"
    of_all.figured(1, Figures(samples, LatencyHistogram([1, *counts[1:]], 0.5), "job"))
    of_all.figured(0, Figures(more, LatencyHistogram([2, *counts[1:]], 0.25), "job"))
    whole, each = of_all.pages["/metrics"](), of_all.pages["/metrics/workers"]()
    assert 6 == summed(whole, "crun_batch_rows", status="ok")
    assert "0.2" in whole and 10 == summed(whole, "crun_batch_cap")
    assert 9 == summed(whole, "crun_batch_concurrency") and 1 == summed(whole, "crun_batch_row_errors")
    assert (3, 0.75) == tuple(summed(whole, f"crun_batch_attempt_seconds_{what}") for what in ("count", "sum"))
    assert (8, 9) == tuple(summed(each, "crun_batch_concurrency", worker=number) for number in "21")


WAYS_TO_RUN: dict[str, Callable[[Path, Scraper], crun_batch.Run]] = {
    "workers": lambda file, scraper: crun_batch.run(
        file, workers=2, environ=run_kit.ENVIRON, handle_signals=False, metrics_port=0, say=scraper.say
    ),
    "a coordinator": lambda file, scraper: coordinated(file, 2, scraper.say, metrics_port=0)[0],
}


@pytest.mark.parametrize("way", WAYS_TO_RUN)
def test_a_job_by_several_workers_has_one_place_for_its_figures(
    gateway: SimulatorProcess, tmp_path: Path, way: str
) -> None:
    """Of the whole job, and of each worker; in the end it is all that was done and spent."""
    file = job_file(gateway, tmp_path, 150, budget={"max_cost_credits": 500}, limits={"concurrency": 4})
    scraper = Scraper(of_each=True)
    try:
        done = WAYS_TO_RUN[way](file, scraper)
    finally:
        scraper.stop()
    assert 0 == done.exit_code
    whole, each = scraper.texts[-1], scraper.of_each[-1]
    assert 150 == summed(whole, "crun_batch_rows", status="ok") == summed(each, "crun_batch_rows", status="ok")
    assert float(done.cost_credits or 0) == pytest.approx(summed(whole, "crun_batch_cost_total"))
    assert 150 == summed(whole, "crun_batch_attempts_total", outcome="done")
    assert 150 == summed(whole, "crun_batch_attempt_seconds_count")
    assert 500 == summed(whole, "crun_batch_cap") and 4 == summed(whole, "crun_batch_concurrency")
    assert all(0 < summed(each, "crun_batch_rows", status="ok", worker=number) < 150 for number in "12")
    assert run_kit.ENVIRON["SIM_KEY"] not in whole + each and "Text number" not in whole + each


def during(gateway: SimulatorProcess, folder: Path, look: Callable[[str], Any]) -> Any:
    """What is found at the address of a run's figures while the run goes on."""
    found: list[Any] = []
    looking: list[threading.Thread] = []

    def say(sentence: str) -> None:
        if sentence.startswith("metrics: "):
            looking.append(threading.Thread(target=lambda: found.append(look(sentence.removeprefix("metrics: ")))))
            looking[0].start()

    job = run_kit.job(gateway, folder, limits={"concurrency": 2})
    assert 0 == run_kit.run(job, run_kit.texts(ROWS), metrics_port=0, say=say).exit_code
    looking[0].join()
    return found[0]


def test_only_this_machine_by_its_own_name_may_read_them(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """A page in a browser that calls this address by another name gets nothing."""

    def look(address: str) -> list[int | str]:
        codes: list[int | str] = [address.startswith("http://127.0.0.1:")]
        for url, host in ((address, "evil.example:80"), (address.replace("/metrics", "/"), None)):
            try:
                fetched(url, host)
            except urllib.error.HTTPError as error:
                codes.append(error.code)
        return codes

    assert [True, 403, 404] == during(gateway, tmp_path, look)


def test_a_reader_that_never_reads_slows_nothing(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """It has a thread of the figures to wait in; the run goes on meanwhile and ends."""

    def look(address: str) -> socket.socket:
        host, port = address.removeprefix("http://").partition("/")[0].split(":")
        return socket.create_connection((host, int(port)))

    during(gateway, tmp_path, look).close()


def test_a_port_that_is_taken_is_refused_before_anything_is_sent(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    before = gateway.ledger()["count"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used"):
            run_kit.run(run_kit.job(gateway, tmp_path), run_kit.texts(2), metrics_port=port)
    assert before == gateway.ledger()["count"]


def test_opentelemetry_gets_the_same_figures_through_its_own_sdk(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the end included: every family, the histogram with every request."""
    found: dict[str, Any] = {}

    class Keeping(InMemoryMetricReader):
        def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
            data = self.get_metrics_data()
            for resource in data.resource_metrics if data is not None else ():
                for scope in resource.scope_metrics:
                    found.update({metric.name: metric.data.data_points for metric in scope.metrics})
            super().shutdown(timeout_millis=timeout_millis)

    exported = open_telemetry.exported
    monkeypatch.setattr(open_telemetry, "exported", lambda metrics, instance: exported(metrics, Keeping()))
    done = run_kit.run(run_kit.job(gateway, tmp_path), run_kit.texts(ROWS), otel=True)
    assert 0 == done.exit_code
    assert {family.name for family in FAMILIES} - {"crun_batch_cap", "crun_batch_row_errors"} <= set(found)
    ok = [point.value for point in found["crun_batch_rows"] if point.attributes == {"status": "ok"}]
    assert [ROWS] == ok
    [latency] = found["crun_batch_attempt_seconds"]
    assert (ROWS, BUCKETS_SECONDS) == (latency.count, tuple(latency.explicit_bounds))
    [cost] = [point.value for point in found["crun_batch_cost"] if point.attributes == {"unit": "credits"}]
    assert abs(Decimal(str(cost)) - run_kit.spent_credits(done)) < Decimal("1e-6")


def test_opentelemetry_exports_to_where_its_own_variables_say(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By OTLP over HTTP, at the end of the run at the latest; no prompt and no key go there."""
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        table = run_kit.texts(5).with_columns(text=run_kit.pl.lit(SECRET_PROMPT))
        assert 0 == run_kit.run(run_kit.job(gateway, tmp_path), table, otel=True).exit_code
        server.shutdown()
    assert {"/v1/metrics"} == {path for path, _ in received}
    sent = b"".join(body for _, body in received)
    assert b"crun_batch_rows" in sent and b"crun-batch" in sent
    assert SECRET_PROMPT.encode() not in sent and run_kit.ENVIRON["SIM_KEY"].encode() not in sent


def test_without_the_extra_it_is_said_what_to_install(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(InputError, match=r"pip install 'crun-batch\[otel\]'"):
        run_kit.run(run_kit.job(gateway, tmp_path), run_kit.texts(2), otel=True)


def test_figures_of_a_session_that_does_not_answer_are_refused_not_waited_for_without_end() -> None:
    from crun_batch.session.prometheus import FiguresFromLoop

    async def scenario() -> FiguresFromLoop:
        return FiguresFromLoop(None)  # type: ignore[arg-type]

    figures = asyncio.run(scenario())
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="closed"):
        figures.read()
    assert time.monotonic() - began < 1.0
