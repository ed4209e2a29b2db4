"""From run directories to reports: read what they hold, lay it out, put the page in its place.

Reads without a lock, also while a run goes on; the sums are DuckDB's, in bounded memory. The one thing written is
the report itself, whole at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import orjson
from msgspec import Struct, to_builtins

from crun_batch.console.words import named, out_phrase, reused_phrase
from crun_batch.reporting.caching import cache_figures
from crun_batch.reporting.data import Amount, BillLine, Facts, ReportData, Retried, StatusLine
from crun_batch.reporting.page import report_html
from crun_batch.reporting.spread import distributions, labels, samples, timeline
from crun_batch.reporting.sums import (
    bill_lines,
    failure_kinds,
    retried_requests,
    status_lines,
    variant_lines,
)
from crun_batch.reporting.text import report_text
from crun_batch.state.status import KILLED, RunNow, run_now
from crun_batch.store.directory import SIMULATED, RunDirectory, read_json
from crun_batch.store.disk import Disk, opened_for_people, write_file
from crun_batch.store.views import connect, run_schema

MEMORY_LIMIT = "1GB"
PROMPT_CHARACTERS = 6_000
MODELS_SHOWN = 12
REPORT_NAME = "report.html"


_CELL_WIDTH = 100
"""Columns of a notebook's cell."""


class Report(Struct, frozen=True):
    """A report that was written: where its page is, and what it says."""

    path: Path
    runs: tuple[ReportData, ...]

    def text(self, width: int | None = None) -> str:
        """The same for a terminal of so many columns."""
        return report_text(self.runs, width=width)

    def __repr__(self) -> str:
        """What a cell of a notebook shows that ends with a report."""
        return f"<Report {str(self.path)!r}>\n{self.text(_CELL_WIDTH)}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data: amounts as decimal text, moments in microseconds since 1970, UTC."""
        return {"page": str(self.path), "runs": [to_builtins(data) for data in self.runs]}


def read_report(path: Path) -> ReportData:
    """All that a report says of the run in `path`, as of this moment. Raises InputError (no run), RunDamaged."""
    run = RunDirectory(path)
    now = run_now(path)
    summary, at_a_kill = now.status, _lines_at_a_kill(now)
    schema, document = run_schema(run), read_json(run.job)
    with connect(path) as connection:
        connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        _hide_progress(connection)
        connection.execute("set preserve_insertion_order = false")
        connection.execute("set temp_directory = ?", [tempfile.gettempdir()])
        statuses = status_lines(connection)
        spreads = distributions(connection, schema)
        latencies = next((spread.variants for spread in spreads if spread.name == "latency"), {})
        started_at, ended_at = _extent(connection)
        return ReportData(
            name=named(summary),
            directory=str(path),
            status=summary["status"],
            exit_code=summary["exit_code"],
            stop_reason=summary["stop_reason"],
            resume_command=summary["resume_command"],
            units_total=max(summary["units"]["total"], sum(line.rows for line in statuses)),
            units_per_row=summary["units_per_row"],
            in_flight=0 if at_a_kill else summary["in_flight"],
            seconds=summary["seconds"],
            started_at=started_at,
            ended_at=ended_at,
            facts=_facts(path, document, statuses),
            bill=(*bill_lines(connection), *at_a_kill),
            statuses=statuses,
            timeline=timeline(connection),
            distributions=spreads,
            failures=failure_kinds(connection, schema),
            retried=_retried(connection, at_a_kill),
            labels=labels(connection, schema),
            variants=variant_lines(connection, schema, statuses, latencies),
            samples=samples(connection, schema),
            id_name=schema.id_name,
            reused=reused_phrase(summary.get("reused")),
            out=out_phrase(summary.get("batches", ())),
            cache=cache_figures(connection, document),
        )


def _lines_at_a_kill(now: RunNow) -> tuple[BillLine, ...]:
    if now.journal is None or now.status["status"] != KILLED.status:
        return ()
    from crun_batch.reporting.at_a_kill import lines_at_a_kill  # not loaded for a run that has ended

    return lines_at_a_kill(now.journal)


def _retried(connection: duckdb.DuckDBPyConnection, at_a_kill: Sequence[BillLine]) -> tuple[Retried, ...]:
    told = retried_requests(connection)
    if not at_a_kill:
        return told
    from crun_batch.reporting.at_a_kill import with_unanswered

    return with_unanswered(told, at_a_kill)


def _hide_progress(connection: duckdb.DuckDBPyConnection) -> None:
    """Only where it is shown: in a notebook without ipywidgets it is off, and setting it at all is an error."""
    is_shown = connection.execute("select current_setting('enable_progress_bar')").fetchone()
    if is_shown == (True,):
        connection.execute("set enable_progress_bar = false")


def make_report(runs: Sequence[Path], path: str | Path | None = None) -> Report:
    """Write one self-contained HTML file about one run or several side by side.

    Default for `path`: report.html in the run directory; of several runs, in the current directory. Replaced whole
    at once. Raises InputError (no run), RunDamaged, DiskFailed.
    """
    read = tuple(read_report(run) for run in runs)
    default = Path(read[0].directory) / REPORT_NAME if len(read) == 1 else Path(REPORT_NAME)
    page = default if path is None else Path(path)
    html = report_html(read).encode()
    if path is None:
        write_file(Disk(), page, html)
    else:
        with opened_for_people(page) as stream:
            stream.write(html)
    return Report(page, read)


def _extent(connection: duckdb.DuckDBPyConnection) -> tuple[int | None, int | None]:
    [(first, last)] = connection.execute(
        "select epoch_us(min(started_at)), epoch_us(max(finished_at)) from attempts"
    ).fetchall()
    return first, last


def _facts(path: Path, document: dict[str, Any], statuses: Sequence[StatusLine]) -> Facts:
    job = document["job"]
    answered = dict.fromkeys(line.model for line in sorted(statuses, key=lambda line: -line.rows))
    models = tuple(model for model in answered if model)[:MODELS_SHOWN]
    endpoint = job["endpoint"]
    endpoints = endpoint if isinstance(endpoint, list) else [endpoint]
    source = job["input"].get("query") or job["input"].get("table") or "a table given in Python"
    budget = (job["budget"].get(f"max_cost_{unit}") for unit in ("usd", "credits"))
    return Facts(
        models=models or ((job["model"],) if job.get("model") else ()),
        gateway=", ".join(dict.fromkeys(_address(one["base_url"]) for one in endpoints)),
        protocol=endpoints[0]["protocol"],
        table=source if isinstance(source, str) else orjson.dumps(source).decode(),
        prompt={name: _prompt_text(value) for name, value in job["prompt"].items() if value and name != "cache"},
        repeats=job["repeats"],
        simulated=path.resolve().name.endswith(SIMULATED),
        budget=Amount(*(None if cap is None else Decimal(str(cap)) for cap in budget)),
        versions=document["versions"],
    )


def _address(base_url: str) -> str:
    address = urlsplit(base_url)
    port = f":{address.port}" if address.port else ""
    return f"{address.scheme}://{address.hostname}{port}{address.path}"


def _prompt_text(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return text[:PROMPT_CHARACTERS]
