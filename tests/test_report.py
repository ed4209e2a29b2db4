"""Reports: every figure is that of the data, every text stays text, one file opens offline in a real browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements.made_up_run import make_run
from store_kit import ManualSyncer, answer, open_run

from crun_batch.api.run_handle import run_in as open_finished
from crun_batch.console.words import out_phrase
from crun_batch.reporting.axes import Axis, number_text, rounded_up, seconds_text, spread_apart, ticks
from crun_batch.reporting.data import (
    Amount,
    BillLine,
    Bin,
    Distribution,
    Example,
    Facts,
    FailureKind,
    Histogram,
    Labels,
    Quantiles,
    ReportData,
    Retried,
    ShownAnswer,
    ShownSample,
    StatusLine,
    Timeline,
    VariantLine,
)
from crun_batch.reporting.markup import Markup, element, escape
from crun_batch.reporting.page import report_html
from crun_batch.reporting.plots import Point, frontier, histogram_plot
from crun_batch.reporting.read import Report, make_report, read_report
from crun_batch.reporting.shapes import LETTER
from crun_batch.reporting.spread import BINS, LABEL_COLUMNS, LABELS
from crun_batch.reporting.tables import bill_tables
from crun_batch.reporting.text import report_text
from crun_batch.reporting.words import bill_bounds, exact_text, percentage, warnings
from crun_batch.stats.intervals import Rate
from crun_batch.store.directory import write_json
from crun_batch.store.events import FinalPart
from crun_batch.store.journal import create_journal
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.views import connect

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = (
    '"></title></style></script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x00\x1b[31m\u202e\ud800'
)
MOMENT = 1_790_000_000_000_000
RATE = Rate(0.5, 0.4, 0.6, 100)
QUANTILES = Quantiles(100, 1, 5, 9, 10, 12, 20, 5.5)


def bill_line(outcome: str = "done", **changes) -> BillLine:
    line = BillLine(
        variant="base",
        outcome=outcome,
        purpose="answer",
        source="job",
        requests=10,
        input_tokens=100,
        cached_input_tokens=0,
        output_tokens=50,
        reasoning_tokens=0,
        cost=Amount(usd=Decimal("1.000000000001")),
        held=Amount(),
        unpriced=0,
        unbounded_usd=0,
        unbounded_credits=0,
    )
    return msgspec.structs.replace(line, **changes)


def status_line(status: str = "ok", rows: int = 10, **changes) -> StatusLine:
    line = StatusLine("base", status, "m", rows, Amount(usd=Decimal(1)), 0, 100, 50, 0)
    return msgspec.structs.replace(line, **changes)


def variant_line(name: str, **changes) -> VariantLine:
    line = VariantLine(
        name, {"model": name}, 10, 9, RATE, {"right": RATE}, Amount(Decimal(1)), 0, 100, 50, 0.1, 0.2
    )
    return msgspec.structs.replace(line, **changes)


def report_of(text: str = "words", **changes) -> ReportData:
    """A report in which everything occurs, every text being `text`."""
    example = Example(text, text, 0, text, text)
    facts = Facts((text,), text, text, text, {text: text}, 2, True, Amount(usd=Decimal(5)), {text: text})
    data = ReportData(
        name=text,
        directory=text,
        status="finished",
        exit_code=1,
        stop_reason=text,
        resume_command=text,
        units_total=30,
        in_flight=1,
        seconds=3.0,
        started_at=MOMENT,
        ended_at=MOMENT + 10**9,
        facts=facts,
        bill=(bill_line(variant=text), bill_line("unknown", source=None, cost=Amount(), held=Amount(Decimal(3)))),
        statuses=(status_line(variant=text, model=text), status_line("error", 5)),
        timeline=Timeline(1.0, ((Bin(MOMENT, 1, 2, 3, 4, 0.1, 0.2),), (Bin(MOMENT + 10**9, 1),))),
        distributions=(
            Distribution(
                text, "", QUANTILES, Histogram((1, 10, 100), (3, 4), True), {text: QUANTILES, "b": QUANTILES}
            ),
            Distribution(
                "latency", "seconds", QUANTILES, Histogram((0, 10, 20), (3, 4), False), {text: QUANTILES}
            ),
        ),
        failures=(FailureKind("error", text, 5, Amount(), (example,)),),
        retried=(Retried("unknown", text, None, 3, Amount(Decimal(3))),),
        labels=(Labels(text, {text: {text: 3, "b": 1}, "": {"b": 2}}, 7, True),),
        variants=(
            variant_line(text, scores={text: RATE}),
            variant_line("b", scores={text: RATE}, cost=Amount(Decimal(9))),
        ),
        samples=(
            ShownSample(
                text, {text: text}, (ShownAnswer(text, 1, "ok", text, 9_999, text, Amount(), 0.1, {text: 1.0}),)
            ),
        ),
        id_name=text,
    )
    return msgspec.structs.replace(data, **changes)


EMPTY = dict.fromkeys(
    ("bill", "statuses", "distributions", "failures", "retried", "labels", "variants", "samples"), ()
) | {"timeline": None, "started_at": None, "ended_at": None, "stop_reason": None, "seconds": 0.0, "in_flight": 0}


class Reader(HTMLParser):
    """What a browser would find: tags, attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.contents: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self.inside and self.inside[-1] in ("script", "style"):
            self.contents[self.inside[-1]] = data
        else:
            self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_escaped_text_reads_back_as_itself(text: str) -> None:
    """What a page cannot show is replaced; everything else arrives, as text and as an attribute."""
    page = Reader(element("p", text, data_tip=text))
    shown = escape(text).encode("utf-8")  # no half of a surrogate pair is left
    assert ["p"] == page.tags
    assert [("data-tip", "".join(page.texts))] == page.attributes or "\r" in text or "\n" in text
    assert b"<" not in shown and b'"' not in shown


def test_markup_is_not_escaped_again() -> None:
    assert "<b>1 &lt; 2</b>" == element("b", "1 < 2")
    assert "<i><b>x</b></i>" == element("i", element("b", "x"), None)
    assert isinstance(escape("x"), Markup)


def test_hostile_text_stays_text_wherever_it_comes_from() -> None:
    """Every text of a run at once: the page has the same elements as with harmless words, and no handler."""
    hostile, harmless = Reader(report_html([report_of(HOSTILE)])), Reader(report_html([report_of()]))
    assert harmless.tags == hostile.tags
    assert {"script": 1, "style": 1} == {tag: hostile.tags.count(tag) for tag in ("script", "style")}
    assert [] == [name for name, _ in hostile.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in hostile.words
    assert not {"\x00", "\x1b", "\u202e"} & set(hostile.words)


def test_the_page_needs_and_allows_nothing_from_outside() -> None:
    """No address to fetch; the policy names exactly this script and this style, by checksum."""
    page = report_html([report_of()])
    reader = Reader(page)
    links = [value for name, value in reader.attributes if name in ("src", "href", "action", "style", "srcset")]
    assert links and all(link.startswith("#") for link in links)
    assert "url(" not in page and "@import" not in page and "http://" not in page and "https://" not in page
    [policy] = [value for name, value in reader.attributes if name == "content" and "default-src" in (value or "")]
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(reader.contents[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_link_leads_somewhere() -> None:
    reader = Reader(report_html([report_of(), report_of()]))
    names = [value for name, value in reader.attributes if name == "id"]
    assert len(names) == len(set(names))
    assert {value[1:] for name, value in reader.attributes if name == "href"} <= set(names)


def test_money_is_exact_to_the_last_digit() -> None:
    cost = Amount(usd=Decimal("12345678901234.000000000001"))
    data = report_of(bill=(bill_line(cost=cost),))
    assert "12,345,678,901,234.000000000001" in Reader(report_html([data])).words
    assert "1" == exact_text(Decimal("1.000000000000"))
    assert "unknown" == exact_text(None)


def test_the_bill_is_bounded_by_what_is_held() -> None:
    """cost <= bill <= cost + held; where nothing was held, no bound is claimed."""
    known, lost = bill_line(), bill_line("unknown", cost=Amount(), held=Amount(usd=Decimal(3)))
    assert bill_bounds(report_of(bill=(known,))) is None
    assert "between $1.00 and $4.01" == bill_bounds(report_of(bill=(known, lost)))
    unheld = bill_line("unknown", cost=Amount(), unbounded_usd=10, unbounded_credits=10)
    assert bill_bounds(report_of(bill=(known, unheld))) is None
    assert any("nothing bounds the bill" in text for _, text in warnings(report_of(bill=(known, unheld))))


def test_an_unknown_cost_is_never_shown_as_nothing() -> None:
    unpriced = bill_line(cost=Amount(), unpriced=10, unbounded_usd=10, unbounded_credits=10)
    statuses = (status_line(cost=Amount(), unpriced=10), status_line("error", cost=Amount(), unpriced=10))
    data = report_of(bill=(unpriced,), statuses=statuses, stop_reason=None, variants=())
    for shown in (Reader(report_html([data])).words, report_text([data])):
        assert "What it cost is unknown." in shown
        assert "$0" not in shown and "0.0 % of the budget" not in shown
        assert "The cost of 10 answered requests is unknown: nothing bounds the bill." in shown


def test_a_run_without_anything_has_a_report() -> None:
    data = report_of(**EMPTY)
    words = Reader(report_html([data])).words
    assert "No row has finished yet; 30 rows to do." in words
    assert "Nothing was sent." in words and "No request was sent." in words
    assert "No row has finished yet" in report_text([data])


def test_a_run_where_all_failed_says_so() -> None:
    data = report_of(statuses=(status_line("error", 30, cost=Amount()),))
    assert "0 of 30 rows are ok (0 %); 30 error." in Reader(report_html([data])).words
    assert "0 of 30 rows are ok (0 %); 30 error." in report_text([data])


def test_all_scripts_and_emoji_arrive() -> None:
    text = "日本語 عربى עברית 👩‍🚀 ñ é"
    assert text in Reader(report_html([report_of(text)])).words
    assert report_html([report_of(text)]).encode("utf-8")


def test_the_terminal_tells_the_same_figures() -> None:
    told = report_text([report_of("words")], width=100)
    assert max(map(len, told.splitlines())) <= 130
    assert "10 of 30 rows are ok (33.3 %); 5 error, 15 still open." in told
    assert "1.000000000001" in told and "Rows that are not ok" in told
    assert "\x1b" not in report_text([report_of(HOSTILE)])


@pytest.mark.parametrize(
    ("expected", "part", "whole"),
    [
        ("-", 0, 0),
        ("0 %", 0, 9),
        ("< 0.1 %", 1, 10**6),
        ("33.3 %", 1, 3),
        ("> 99.9 %", 10**6 - 1, 10**6),
        ("100 %", 9, 9),
    ],
)
def test_percent_says_none_and_all_only_where_it_is_so(expected: str, part: int, whole: int) -> None:
    assert expected == percentage(part, whole)


@given(st.floats(1e-9, 1e9), st.floats(1.001, 1e6), st.integers(2, 9), st.booleans())
@settings(deadline=None, max_examples=200)
def test_ticks_lie_on_their_axis(low: float, factor: float, number: int, logarithmic: bool) -> None:
    axis = Axis(low, low * factor, 0, 100, logarithmic)
    found = axis.ticks(number)
    assert found == sorted(set(found)) and len(found) <= 2 * number + 1
    assert all(low * (1 - 1e-6) <= value <= low * factor * (1 + 1e-6) for value in found)
    assert rounded_up(low) >= low * (1 - 1e-9)


def test_figures_of_an_axis_are_short() -> None:
    assert [0, 50, 100] == ticks(0, 100, 3)
    assert ["0", "0.02", "350", "1,200", "12k", "1.5M"] == list(
        map(number_text, (0, 0.02, 350, 1200, 12_000, 1.5e6))
    )
    assert ["0 s", "20 ms", "1.5 s", "3 min", "3 h"] == list(map(seconds_text, (0, 0.02, 1.5, 180, 10_800)))
    assert [10.0, 24.0, 38.0] == spread_apart([10, 11, 12], 14, 0, 100)


def test_the_frontier_has_who_is_not_beaten_in_both() -> None:
    points = [
        Point(name, x, y, y, y, 0, "")
        for name, x, y in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.9), ("d", 3, 0.8))
    ]
    assert ["a", "c"] == [point.name for point in frontier(points)]


def test_what_a_report_counts_has_one_name() -> None:
    """Where rows are asked repeatedly its plots count units, as its sentences and tables do."""
    lines = (variant_line("one"), variant_line("two"))
    data = report_of(units_per_row=4, variants=lines, labels=(Labels("x", {"good": {"one": 3}}, 9, True),))
    told = report_html([data])
    for words in ("units finished per second", "cost of a unit in $", "and 9 units with other values"):
        assert words in told
    for words in ("rows finished per second", "cost of a row in", "9 rows with", "a row counts once"):
        assert words not in told


def test_what_is_unknown_does_not_lower_what_a_row_cost() -> None:
    """A row of unknown cost is no row that cost nothing: by status as by variant, the known ones are divided."""
    statuses = (status_line("ok", 4, cost=Amount(credits=Decimal(3)), unpriced=1), status_line("error", 5))
    [table] = [one for one in bill_tables(report_of(statuses=statuses)) if one.title.startswith("By how")]
    assert ("3 credits", "1 credit") == tuple(table.rows[0][-2:])


def test_what_is_out_in_batches_is_not_nothing() -> None:
    """A report of a run that waits for its batches says so, with what is reserved for them."""
    out = [
        {"requests": 10, "held_usd": None, "held_credits": "0.2"},
        {"requests": 4, "held_usd": None, "held_credits": "0.1"},
    ]
    waits = report_of(bill=(), out=out_phrase(out))
    assert "Nothing has come back yet." in report_text([waits]) and "Nothing was sent" not in report_text([waits])
    told = "14 requests out in 2 batches, 0.3 credits reserved: none of it is in the cost yet."
    assert told in report_text([waits]) and told in report_html([waits])
    unbounded = [*out, {"requests": 1, "held_usd": None, "held_credits": None}]
    assert ("15 requests out in 3 batches", "") == (out_phrase(unbounded), out_phrase([]))


def test_the_marks_of_a_plot_stay_in_it() -> None:
    """Their words begin in the plot, however narrow it is and wherever median and 95 % are."""
    for p50, p95 in [(47.5, 73.2), (99.2, 99.3), (12.3, 241.0)]:
        spread = msgspec.structs.replace(QUANTILES, p50=p50 / 1000, p95=p95 / 1000)
        drawn = Distribution("latency", "seconds", spread, Histogram((0, 0.1, 0.25), (3, 4), False), {})
        for width in (280, 340, 460):
            told = str(histogram_plot(drawn, width))
            for x, anchor, words in re.findall(
                r'<text x="([^"]+)"[^>]*?(text-anchor="end")?>(median[^<]*)<', told
            ):
                size = len(words) * LETTER
                assert 0 <= (float(x) - size if anchor else float(x))


def test_the_largest_report_is_below_5_mb() -> None:
    """Every bound of the queries reached at once, in characters that take most room."""
    name = "<" * 40
    variants = [f"{name}{number}" for number in range(100)]
    answers = tuple(
        ShownAnswer(one, 0, "ok", "&" * 1500, 9_999, "&" * 1500, Amount(Decimal(1)), 1.0) for one in variants[:12]
    )
    shown = dict.fromkeys(variants, QUANTILES)
    bins = tuple(Bin(MOMENT + n * 10**6, 10**6, 10**6, 10**6, 10**9, 0.123456, 0.123456) for n in range(BINS + 24))
    data = report_of(
        variants=tuple(variant_line(one) for one in variants),
        bill=tuple(bill_line(variant=one) for one in variants),
        statuses=tuple(status_line(variant=one) for one in variants),
        timeline=Timeline(1.0, (bins,)),
        labels=tuple(
            Labels(name, {f"{n}{'&' * 80}": dict.fromkeys(variants, 10**6) for n in range(LABELS)}, 9, False)
            for _ in range(LABEL_COLUMNS)
        ),
        distributions=tuple(
            Distribution(name, "", QUANTILES, Histogram(tuple(range(47)), (9,) * 46, False), shown)
            for _ in range(20)
        ),
        failures=tuple(
            FailureKind(
                "error",
                name,
                9,
                Amount(),
                tuple(Example(name, name, 0, "&" * 600, "&" * 600 + str(n)) for n in range(3)),
            )
            for _ in range(40)
        ),
        samples=tuple(ShownSample(name, {f"{n}": "&" * 800 for n in range(24)}, answers) for _ in range(4)),
    )
    assert len(report_html([data]).encode()) < 5_000_000


SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64(), axes={"base": {"model": "m"}}, scores=("right",))


def job_document(schema: RunSchema) -> dict[str, object]:
    job = {
        "name": "small",
        "input": {"table": "rows.csv"},
        "endpoint": {"base_url": "https://name:secret@gateway.example/v1?key=secret", "protocol": "chat"},
        "model": "m",
        "prompt": {"system": None, "user": "{{ text }}"},
        "repeats": 1,
        "budget": {"max_cost_usd": "1", "max_cost_credits": None},
    }
    return {"job": job, "run_schema": schema_document(schema), "versions": {}}


def summary_document(rows: int) -> dict[str, object]:
    return {
        "name": "small",
        "status": "finished",
        "stop_reason": None,
        "exit_code": 1,
        "rows": {"total": rows, "ok": rows, "open": 0},
        "errors": {},
        "tokens": {},
        "attempts": rows,
        "unknown_attempts": 0,
        "unpriced_attempts": 0,
        "seconds": 2.0,
        "rows_per_second": 1.0,
        "output_dir": "x",
        "resume_command": None,
    }


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Sealed and live rows, one of them superseded, one failed, one request of unknown outcome."""
    run = open_run(tmp_path / "small")
    write_json(run, run.job, job_document(SCHEMA))
    write_json(run, run.summary, summary_document(40))
    journal = create_journal(run, None, syncer=ManualSyncer())
    for row in range(20):
        answer(journal, row, text="yes" if row % 4 else "no")
    answer(journal, 20, final=FinalPart("error", as_read=True, error_kind="server"), text=None)
    seal_segment(run, journal.maybe_rotate(dict, force=True), SCHEMA)
    for row in range(21, 40):
        answer(journal, row, text="yes")
    answer(journal, 20, final=FinalPart("ok", as_read=True, supersedes=True), text="<b>no</b>")
    answer(journal, 0, final=None, outcome="unknown", http_status=None, error_kind="timeout", cost_usd=None)
    journal.close()
    run.close()
    return tmp_path / "small"


def test_the_figures_are_those_of_duckdb(small: Path) -> None:
    data = read_report(small)
    with connect(small) as connection:
        [(requests, cost, held)] = connection.execute(
            "select count(*), sum(cost_usd), sum(held_usd) filter (outcome = 'unknown') from attempts"
        ).fetchall()
        statuses = dict(connection.execute("select status, count(*) from results group by 1").fetchall())
        labels = dict(connection.execute("select output_text, count(*) from results group by 1").fetchall())
        [(median,)] = connection.execute(
            "select quantile_cont(latency_seconds, 0.5) from attempts where outcome = 'done'"
        ).fetchall()
    assert (requests, cost, held) == (data.requests, data.cost.usd, data.held.usd)
    assert statuses == {line.status: line.rows for line in data.statuses} == {"ok": 40}
    assert labels == {label: sum(by.values()) for label, by in data.labels[0].counts.items()}
    assert median == data.distributions[0].total.p50
    assert 40 == sum(each.ok + each.not_ok for period in data.timeline.periods for each in period)
    assert 1 == sum(each.unanswered for period in data.timeline.periods for each in period)
    assert requests - 1 == sum(data.distributions[1].histogram.counts)
    document = Report(small / "report.html", (data,)).to_dict()
    assert str(cost) == str(
        sum(Decimal(line["cost"]["usd"]) for line in document["runs"][0]["bill"] if line["cost"]["usd"])
    )


def test_nothing_of_an_address_but_host_and_path_is_told(small: Path) -> None:
    page = make_report([small]).path.read_text(encoding="utf-8")
    assert "https://gateway.example/v1" in page
    assert "secret" not in page


def test_the_report_is_put_in_the_run_directory_whole(small: Path, tmp_path: Path) -> None:
    run = open_finished(small)
    assert small / "report.html" == run.report_html()
    assert tmp_path / "other.html" == run.report_html(tmp_path / "other.html")
    assert [] == list(small.glob("*.tmp"))
    assert "<table>" in run._repr_html_() and "small: finished" in run._repr_html_()


def test_a_report_for_a_device_or_behind_a_link_leaves_both_there(small: Path, tmp_path: Path) -> None:
    """As root a file would take the place of /dev/stdout."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "page.html")
    (tmp_path / "page.html").write_text("old")
    with ThreadPoolExecutor(1) as executor:
        read = executor.submit(pipe.read_text)
        make_report([small], pipe)
    make_report([small], link)
    assert read.result().startswith("<!doctype html>") and pipe.is_fifo()
    assert link.read_text() == read.result() and link.is_symlink()


def test_several_runs_stand_side_by_side(small: Path, tmp_path: Path) -> None:
    page = make_report([small, small], tmp_path / "both.html").path.read_text(encoding="utf-8")
    assert "2 runs" in Reader(page).words
    assert 2 == page.count("What it cost</h2>")


def test_a_long_pause_between_sessions_is_left_out(tmp_path: Path) -> None:
    """Two sessions of 30 seconds, a day apart: two periods, and the bars are of seconds, not of hours."""
    run = open_run(tmp_path / "run")
    write_json(run, run.job, job_document(SCHEMA))
    write_json(run, run.summary, summary_document(60))
    journal = create_journal(run, None, syncer=ManualSyncer())
    for row in range(60):
        finished_at = MOMENT + (row + 86_400 * (row >= 30)) * 10**6
        answer(journal, row, finished_at=finished_at)
    journal.close()
    run.close()
    timeline = read_report(run.path).timeline
    assert 2 == len(timeline.periods) and timeline.bin_seconds <= 5
    assert [30, 30] == [sum(each.ok for each in period) for period in timeline.periods]


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's elements after its script ran, and what it said to the console, in a real browser."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_in_a_browser_the_page_says_what_duckdb_says_and_complains_of_nothing(tmp_path: Path) -> None:
    """20,000 made-up rows with hostile texts; a page whose script is not the one in its policy does complain."""
    run = tmp_path / "run"
    make_run(run, 20_000)
    page = make_report([run]).path
    assert page.stat().st_size < 5_000_000
    dom, console = browse(page, tmp_path / "profile")
    assert [] == console
    words = Reader(dom).words
    with connect(run) as connection:
        [(ok, rows)] = connection.execute(
            "select count(*) filter (status = 'ok'), count(*) from results"
        ).fetchall()
        [(requests, cost)] = connection.execute("select count(*), sum(cost_usd) from attempts").fetchall()
        [(praises,)] = connection.execute(
            "select count(*) from results "
            "where status = 'ok' and output.label = 'praise' and variant = 'large/long'"
        ).fetchall()
    for figure in (f"{ok:,} of {rows:,} units are ok", f"{requests:,}", exact_text(cost), f"{praises:,}"):
        assert figure in words
    assert "<script>alert(" in words and 1 == Reader(dom).tags.count("script")
    page.write_text(re.sub("const tip", "let tip", page.read_text(encoding="utf-8")), encoding="utf-8")
    assert [] != browse(page, tmp_path / "profile")[1]
