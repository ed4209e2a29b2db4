"""What the commands answer, in words: a check, a status, findings, models, credit. From the plain documents."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, counted, credit_amount, money, usd
from crun_batch.console.bill_words import decimal_of
from crun_batch.console.secret_words import secret_phrases
from crun_batch.console.steering_words import steering_lines
from crun_batch.console.tables import leading_columns, table
from crun_batch.console.words import entry, named, one_line, printable_line, summary_text


def check_text(document: Mapping[str, Any], width: int | None = None) -> str:
    """Of a job without mistakes: the table, the templates, the first requests, and what to mind."""
    parts = [_table_text(document, width), _templates_text(document), _requests_text(document)]
    parts.append(_sending_text(document))
    parts += [entry("warning: ", one_line(warning), width, indent="  ") for warning in document["warnings"]]
    return "\n\n".join(part for part in parts if part)


def _table_text(document: Mapping[str, Any], width: int | None) -> str:
    read = document["table"]
    selected, source = read["selected_rows"], read["source_rows"]
    chosen = counted(selected, "row") if selected == source else f"{count(selected)} of {counted(source, 'row')}"
    files = ", ".join(read["files"][:3]) + (
        f" and {len(read['files']) - 3} more" if len(read["files"]) > 3 else ""
    )
    head = f"{named(document)}: {chosen}" + (f" from {one_line(files)}" if files else "") + f", id: {read['id']}"
    columns = [
        (column["name"], column["type"], "prompt" if column["used"] else "", column["carried_as"] or "")
        for column in read["columns"]
    ]
    return f"{head}\n{table(('column', 'type', 'used in', 'in the results as'), columns, width=width)}"


def _templates_text(document: Mapping[str, Any]) -> str:
    return "\n".join(f"{template['key']}: {one_line(template['text'])}" for template in document["templates"])


def _requests_text(document: Mapping[str, Any]) -> str:
    endpoint = document["endpoint"]
    shown = [json.dumps(request["body"], ensure_ascii=False, indent=2) for request in document["first_requests"]]
    if not shown:
        return ""
    others = len(document["endpoints"]) - 1
    more = f" and {counted(others, 'other endpoint')}" if others else ""
    which = "rows are shuffled; as an example" if document.get("packs") else "the first"
    head = f"{which} {counted(len(shown), 'request')} to {endpoint['base_url']}{more} ({endpoint['protocol']}):"
    return "\n".join([head, *("\n".join(map(printable_line, text.splitlines())) for text in shown)])


def _sending_text(document: Mapping[str, Any]) -> str:
    requests, identical = document["requests"], document["identical"]["requests"]
    lines = [f"{counted(requests, 'request')} in all; results go to {one_line(document['output_dir'])}"]
    lines += [f"secrets: {phrase}" for phrase in secret_phrases(document["secrets"])]
    lines += [
        f"judge {judge['name']}: {one_line(judge['model'])} at {judge['endpoint']['base_url']} "
        f"({judge['endpoint']['protocol']}) is asked about each answer"
        for judge in document["judges"]
    ]
    lines += [
        f"score {one['name']}: {one_line(one['function'])} is code, which a run imports and check does not"
        for one in document["functions"]
    ]
    lines += _on_end_lines(document["on_end"])
    least = "at least " if document["identical"]["is_minimum"] else ""
    if identical and document.get("packs"):
        repeat = f"{least}{counted(identical, 'row')} ask what an earlier one asks"
        lines.append(f"{repeat}: share_identical: true sends each once")
    elif identical:
        saved = f"{least}{count(identical)} of {counted(requests, 'request')} repeat an earlier one"
        way = "is" if document["share_identical"] else "would be"
        lines.append(
            f"{saved}: with share_identical: true each {way} sent once, {count(requests - identical)} in all"
        )
    return "\n".join(lines)


def _on_end_lines(on_end: Mapping[str, Any]) -> list[str]:
    command, variable = on_end["command"], on_end["webhook_env"]
    words = command if isinstance(command, str) else shlex.join(command or ())
    lines = [f"when it ends: runs {one_line(words)}"] if words else []
    if variable:
        lines.append(f"when it ends: posts how it went to the address in {one_line(variable)}")
    return lines


def status_text(status: Mapping[str, Any], run: str, width: int | None = None) -> str:
    """The summary of this moment, who writes, and which attempts may have been billed without a reply."""
    lines = [summary_text(status, width)]
    if status["holder"]:
        writer = f"{one_line(status['holder'])}, {count(status['in_flight'])} in flight"
        lines.append(entry("  process  ", writer, width))
    lines += [entry(f"  {name:<8} ", phrase, width) for name, phrase in steering_lines(status)]
    told = status.get("on_end")
    for who, why in (told["failed"] if told is not None else {}).items():
        lines.append(entry("  on_end   ", f"nobody was told by the {one_line(who)}: {one_line(why)}", width))
    suspects = status["suspects"]
    if suspects:
        rows = [
            (
                each["id"],
                each["variant"],
                each["repeat"],
                each["attempt"],
                _second(each["started_at"]),
                _held(each),
            )
            for each in suspects
        ]
        lines += ["", "attempts of unknown outcome: they may have been billed, no reply was recorded"]
        titles = ("id", "variant", "repeat", "attempt", "started at, UTC", "at most")
        lines.append(table(titles, rows, width=width))
        when = ", once the run goes on" if status["in_flight"] and status["holder"] is None else ""
        lines.append(
            f"all of them{when}: crun-batch sql {run} \"select * from attempts where outcome = 'unknown'\""
        )
    return "\n".join(lines)


def cancel_text(document: Mapping[str, Any]) -> str:
    """A line for each batch that was to be cancelled, and what follows."""
    lines = [
        f"{one_line(one['batch_id'])}: {one_line(one['status'])}, {counted(one['requests'], 'request')}"
        for one in document["batches"]
        if one["fault"] is None
    ]
    if not document["batches"]:
        return "no batch of this run is out"
    return "\n".join([*lines, "what is done by now is paid: run again to collect it and to send the rest anew"])


def _second(moment: str) -> str:
    """2026-01-02 03:04:05: to the second, which is enough to find it in a gateway's list."""
    return moment[:19].replace("T", " ")


def _held(suspect: Mapping[str, Any]) -> str:
    return money(decimal_of(suspect["held_usd"]), decimal_of(suspect["held_credits"]))


def findings_text(findings: Sequence[Mapping[str, Any]], *, data: bool) -> str:
    """One line per finding, and the verdict."""
    errors = sum(finding["severity"] == "error" for finding in findings)
    lines = [
        f"{finding['severity']}: {one_line(finding['file'])}: {one_line(finding['what'])}" for finding in findings
    ]
    checked = "every byte checked" if data else "checked without reading every byte; --data does"
    verdict = f"{counted(errors, 'error')} found" if errors else "all is well"
    return "\n".join([*lines, f"{verdict} ({checked})"])


def models_text(document: Mapping[str, Any], width: int | None = None) -> str:
    """The models and what a million tokens cost, as far as known."""
    if "endpoints" in document:
        return "\n\n".join(
            f"{one_line(one['name'])}:\n{_of_endpoint(one, models_text)}" for one in document["endpoints"]
        )
    if document["models"] is None:
        return f"{document['base_url']} has no list of models"
    rows = [(model["id"], *_prices(model["price"])) for model in document["models"]]
    text = table(("model", "input per million", "output per million", "at least", "from"), rows, width=width)
    unknown = next((model for model in document["models"] if model["price"] is None), None)
    if unknown is None:
        return text
    return f"{text}\n\n{one_line(unknown['price_from'].replace(unknown['id'], 'MODEL'))}"


def _of_endpoint(document: Mapping[str, Any], words: Callable[[Mapping[str, Any]], str]) -> str:
    return words(document) if document["fault"] is None else one_line(document["fault"])


def _prices(price: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    if price is None:
        return UNKNOWN, UNKNOWN, "-", "-"
    show = usd if price["currency"] == "usd" else credit_amount
    minimum = price.get("minimum_per_request")
    least = show(Decimal(minimum)) if minimum else "-"
    return (
        show(Decimal(str(price["input_per_mtok"]))),
        show(Decimal(str(price["output_per_mtok"]))),
        least,
        str(price["source"]),
    )


def rows_text(names: Sequence[str], rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """The answer of a query, one line per row, and how many they are."""
    cells = [[_cell(row[name]) for name in names] for row in rows]
    shown = len(names) if width is None else leading_columns(names, cells, width)
    text = table(names[:shown], [line[:shown] for line in cells], width=width)
    return "\n".join([text, *_counts(len(rows), names[shown:], width)])


def _counts(rows: int, hidden: Sequence[str], width: int | None) -> list[str]:
    """How many rows there are, and which columns had no room."""
    if not hidden:
        return [f"({counted(rows, 'row')})"]
    names = ", ".join(map(one_line, hidden))
    found = f"({counted(rows, 'row')}; {counted(len(hidden), 'column')} not shown for want of room: {names}."
    way = "To see them: --json, a wider terminal, or name them in the query.)"
    return textwrap.wrap(f"{found} {way}", max(20, width or 0), break_on_hyphens=False)


def _cell(value: object) -> object:
    """Amounts without needless zeros, moments without needless digits."""
    if isinstance(value, Decimal):
        return value.normalize() if value else Decimal(0)
    return value.isoformat(sep=" ", timespec="milliseconds") if isinstance(value, datetime) else value


def credit_text(document: Mapping[str, Any], width: int | None = None) -> str:
    """What is left."""
    if "endpoints" in document:
        return "\n".join(
            f"{one_line(one['name'])}: {_of_endpoint(one, credit_text)}" for one in document["endpoints"]
        )
    balance = document["balance"]
    if balance is None:
        return f"{document['base_url']} has no balance call: credits are not checked there"
    if balance["amount"] is None:
        return f"unlimited ({document['base_url']})"
    show = usd if balance["unit"] == "usd" else credit_amount
    amount = Decimal(balance["amount"])
    told = f"overdrawn by {show(-amount)}" if amount < 0 else f"{show(amount)} left"
    return f"{told} ({document['base_url']})"
