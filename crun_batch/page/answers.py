"""The documents behind the addresses under /api/, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from crun_batch.errors import InputError
from crun_batch.page.asked import RowsAsked, rows_asked
from crun_batch.page.facts import facets_document
from crun_batch.page.one_row import row_document
from crun_batch.page.shown_runs import ShownRun, ShownRuns
from crun_batch.page.telling import tell_session
from crun_batch.reporting.annotating import this_person

if TYPE_CHECKING:
    from starlette.requests import Request

RUN = "run"
"""The parameter that names the run in every address."""


def answers(
    shown_runs: ShownRuns, table: object | None, allow_paths: Sequence[str | Path], *, may_steer: bool
) -> Mapping[str, Callable[[Request], Any]]:
    """Name -> what is answered to a request, with the parameters of the page's own address."""

    def facts(request: Request) -> dict[str, Any]:
        shown = _run_of(shown_runs, request)
        return {**facets_document(shown.rows.facets()), "run": str(shown.path), "may_steer": may_steer}

    def asked(request: Request) -> tuple[ShownRun, RowsAsked]:
        shown = _run_of(shown_runs, request)
        return shown, rows_asked(request.query_params.multi_items(), shown.rows.facets())

    def rows(request: Request) -> dict[str, Any]:
        shown, wanted = asked(request)
        return shown.rows.page(wanted)

    def count(request: Request) -> dict[str, Any]:
        shown, wanted = asked(request)
        return {"rows": shown.rows.count(wanted)}

    def compare(request: Request) -> dict[str, Any]:
        return _run_of(shown_runs, request).compared(request.query_params)

    def row(request: Request) -> dict[str, Any]:
        wanted = request.query_params.get("id")
        if wanted is None:
            raise InputError("which row? its id is missing")
        shown = _run_of(shown_runs, request)
        recorded = shown.rows.recorded(wanted)
        document = row_document(shown.path, recorded, table=table, allow_paths=allow_paths)
        return {**document, "said": shown.rows.people.of_row(document["id"]), "person": this_person()}

    def status(request: Request) -> dict[str, Any]:
        shown = _run_of(shown_runs, request)
        return {**shown.live.read(), "read_ahead": to_builtins(shown.rows.held.told())}

    return {
        "runs": lambda _: shown_runs.listed(),
        "facts": facts,
        "status": status,
        "failures": lambda request: _run_of(shown_runs, request).failures(),
        "rows": rows,
        "count": count,
        "row": row,
        "compare": compare,
        "people": lambda request: _run_of(shown_runs, request).rows.people.figures(),
    }


def actions(shown_runs: ShownRuns, *, may_steer: bool) -> Mapping[str, Callable[[Request, bytes], Any]]:
    """Name -> what is done with the body that is sent there: a person's word of a row saved, or a session told.

    `may_steer`: whether this page tells sessions anything.
    """

    def annotate(request: Request, body: bytes) -> dict[str, Any]:
        return _run_of(shown_runs, request).rows.people.save(body)

    def steer(request: Request, body: bytes) -> dict[str, Any]:
        shown = _run_of(shown_runs, request)
        answer = tell_session(shown.path, body)
        shown.live.forget()
        return answer

    return {"annotate": annotate, **({"steer": steer} if may_steer else {})}


def _run_of(shown_runs: ShownRuns, request: Request) -> ShownRun:
    return shown_runs.run(request.query_params.get(RUN))
