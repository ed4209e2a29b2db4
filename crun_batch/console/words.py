"""Plain text for terminals: what may reach one, the summary of a run, lists of mistakes.

Owns what may reach a terminal: texts may hold what a model or a gateway wrote, so control and
direction characters never pass. Gives text back; printing is the command line's.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, counted, duration, money, noun_of, rate
from crun_batch.console.bill_words import UNITS, batch_phrase, cost_phrase, decimal_of, out_in_batches
from crun_batch.console.pilots import pilot_lines
from crun_batch.errors import Mistake
from crun_batch.records import STATUSES

ELLIPSIS = "…"
_COPIED = ("results", "resume")
"""Lines of a summary that are paths and commands."""
_SENTENCE = re.compile(r"(?: *\d+\. )?(?![-+@]+\s)(?=\S)")
"""How a line begins that is a sentence, numbered or not; an excerpt is indented, a line of a diff has its sign."""
_COMMAND = re.compile(r"(?<=: )(?=\S*crun-batch \S|python -m crun_batch )")
"""Where a command begins that is to be copied: in parts it would be another one."""
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_STATUSES = (*STATUSES, "open")
_ENDS = {
    "finished": "finished",
    "stopped": "stopped",
    "running": "still running",
    "interrupted": "interrupted",
    "killed": "killed",
}


def one_line(text: str) -> str:
    """The text on one line, its control and direction characters replaced: safe to show in a terminal."""
    words = " ".join(text.split())
    if words.isascii() and words.isprintable():
        return words
    return "".join("\ufffd" if _is_harmful(character) else character for character in words)


def _is_harmful(character: str) -> bool:
    return ord(character) in _DIRECTION or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def display_width(text: str) -> int:
    """Terminal columns: 2 for wide characters, 0 for combining and invisible ones."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def shorten(text: str, width: int) -> str:
    """The text, or as much of it as fits into `width` columns with an ellipsis."""
    if display_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept).rstrip() + ELLIPSIS if width > 0 else ""


def summary_text(summary: Mapping[str, Any], width: int | None = None) -> str:
    """The end of a run in a few lines: rows, errors, tokens, the bill, time, and the command to go on.

    What is longer than the terminal is wide goes on below itself; what is to be copied, a path or a command, is
    left to the terminal.

    `summary` is the run's summary.json: counts of rows by status, tokens by kind, costs and holds as decimal
    text or null, seconds.
    """
    headline = entry("", summary_headline(summary), width, indent="  ")
    return "\n".join([headline, *(_summary_entry(name, phrase, width) for name, phrase in summary_lines(summary))])


def _summary_entry(name: str, phrase: str, width: int | None) -> str:
    return entry(f"  {name:<8} ", phrase, None if name in _COPIED else width)


def entry(head: str, phrase: str, width: int | None, indent: str | None = None) -> str:
    """The phrase after its head; further lines, where the terminal asks for them, stand below its first."""
    indent = " " * len(head) if indent is None else indent
    if width is None or display_width(head) + display_width(phrase) <= width:
        return head + phrase
    room = max(20, width - max(len(head), len(indent)))
    lines = textwrap.wrap(phrase, room, break_long_words=False, break_on_hyphens=False)
    return head + f"\n{indent}".join(lines or [""])


def folded(text: str, width: int | None) -> str:
    """The text, long sentences going on below themselves; excerpts, diffs and commands to be copied stay whole.

    `width`: of the terminal; None: there is none, and nothing is folded.
    """
    return text if width is None else "\n".join(_folded_line(line, width) for line in text.split("\n"))


def _folded_line(line: str, width: int) -> str:
    begins = _SENTENCE.match(line)
    if begins is None or display_width(line) <= width:
        return line
    mark, sentence = begins[0], line[begins.end() :]
    indent = " " * (len(mark) + 2)
    words, *command = _COMMAND.split(sentence, maxsplit=1)
    return f"\n{indent}".join([entry(mark, words.rstrip(), width, indent), *command])


def summary_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The summary's lines: (what, how much)."""
    lines = [
        ("rows", _rows_phrase(summary["rows"]) + _when_counted(summary)),
        ("units", _units_phrase(summary)),
        ("errors", ", ".join(f"{count(number)} {kind}" for kind, number in _by_number(summary["errors"]))),
        ("tokens", _tokens_phrase(summary["tokens"])),
        ("cost", cost_phrase(summary)),
        *(("judge", _judge_phrase(name, sums)) for name, sums in summary.get("judges", {}).items()),
        *(("endpoint", _endpoint_phrase(name, one)) for name, one in summary.get("endpoints", {}).items()),
        ("shared", _shared_phrase(summary.get("shared", 0), _units(summary)[1])),
        ("reused", reused_phrase(summary.get("reused"))),
        *(("batch", one_line(batch_phrase(one))) for one in summary.get("batches", ())),
        ("time", _time_phrase(summary)),
        *(pilot_lines(summary["pilot"]) if summary.get("is_pilot") and summary["pilot"] else ()),
        ("results", _place_phrase(summary)),
        ("resume", one_line(summary.get("resume_command") or "")),
    ]
    return [(name, phrase) for name, phrase in lines if phrase]


def _place_phrase(summary: Mapping[str, Any]) -> str:
    """Where the results are; of a job by several workers that are not through, in its shards."""
    shards = summary.get("shards")
    place, units = one_line(summary["output_dir"]), _units(summary)[0]
    if shards == [] or (shards is None and units["total"] and units.get("open") == units["total"]):
        return f"none yet; they go to {place}"  # where a session was refused, there is no such folder
    if shards is None:
        return place
    others = f" and {len(shards) - 1} more beside it" if len(shards) > 1 else ""
    return f"in shards as yet: {one_line(shards[0])}{others}"


def _judge_phrase(name: str, sums: Mapping[str, Any]) -> str:
    cost = money(decimal_of(sums["cost_usd"]), decimal_of(sums["cost_credits"]))
    return f"{one_line(name)}: {counted(sums['answered'], 'verdict')}, {cost} of the cost"


def _endpoint_phrase(name: str, one: Mapping[str, Any]) -> str:
    cost = f", {money(decimal_of(one['cost_usd']), decimal_of(one['cost_credits']))} of the cost"
    why = "" if one["left_out"] is None else f"; left out: {one_line(one['left_out'])}"
    return f"{one_line(name)}: {counted(one['answered'], 'answer')}{cost if one['answered'] else ''}{why}"


def _shared_phrase(shared: int, noun: str) -> str:
    return f"{counted(shared, noun)} given the answer to an identical request, at no cost" if shared else ""


def reused_phrase(reused: Mapping[str, Any] | None) -> str:
    """What was taken over from earlier runs, and what it had cost there; "" for nothing."""
    if not reused or not reused["rows"]:
        return ""
    usd, credits_ = (decimal_of(reused[f"saved_{unit}"]) for unit in ("usd", "credits"))
    unknown = reused["rows"] - reused["of_known_cost"]
    doubt = f" (of {count(unknown)} it is not known)" if unknown else ""
    return f"{counted(reused['rows'], 'answer')} of earlier runs, which had cost {money(usd, credits_)}{doubt}"


def out_phrase(batches: Sequence[Mapping[str, Any]]) -> str:
    """24 requests out in 3 batches, 0.5359 credits reserved; "" where none is out."""
    sums = [[decimal_of(one[f"held_{unit}"]) for one in batches] for unit in UNITS]
    usd, credits_ = (None if None in held else sum(filter(None, held), Decimal(0)) for held in sums)
    reserved, out = money(usd, credits_, ROUND_CEILING), out_in_batches(batches)
    return ", ".join([*out, f"{reserved} reserved"] if out and reserved != UNKNOWN else out)


def summary_headline(summary: Mapping[str, Any]) -> str:
    """What is told of, how it ended, its exit code."""
    reason = one_line(summary.get("stop_reason") or _why_not_zero(summary))
    end = _ENDS[summary["status"]] + (f": {reason}" if reason else "")
    exit_code = summary.get("exit_code")
    return f"{named(summary)}: {end}" + ("" if exit_code is None else f" (exit code {exit_code})")


def named(document: Mapping[str, Any]) -> str:
    """The job's name, with the shard that a document is about."""
    shard = document.get("shard")
    return one_line(document["name"]) + (f", shard {shard}" if shard else "")


def _why_not_zero(summary: Mapping[str, Any]) -> str:
    """Of a finished run that ends with 1: what is not ok, and the option that asks it again."""
    counts, noun = _units(summary)
    not_ok = sum(counts.get(status, 0) for status in _STATUSES if status not in ("ok", "open"))
    if summary["status"] != "finished" or not summary.get("exit_code") or not not_ok:
        return ""
    is_one = not_ok == 1
    again = "it" if is_one else "them"
    return f"{counted(not_ok, noun)} {'is' if is_one else 'are'} not ok, --retry failed asks {again} again"


def _rows_phrase(rows: Mapping[str, int]) -> str:
    by_status = [f"{count(rows[status])} {status}" for status in _STATUSES if rows.get(status) or status == "ok"]
    return f"{count(rows['total'])}: {', '.join(by_status)}"


def _when_counted(summary: Mapping[str, Any]) -> str:
    """Rows of several units are counted by a session every few seconds; units are counted from its journal."""
    is_as_of_now = summary.get("units_per_row", 1) == 1 or summary["status"] not in ("running", "killed")
    return "" if is_as_of_now else " (as last counted)"


def _units(summary: Mapping[str, Any]) -> tuple[Mapping[str, int], str]:
    """What was sent and finished one by one, by status, and what it is called."""
    units_per_row = summary.get("units_per_row", 1)
    return summary["rows" if units_per_row == 1 else "units"], noun_of(units_per_row)


def _units_phrase(summary: Mapping[str, Any]) -> str:
    """120, 6 for each row: 119 ok, 1 error. Nothing where a row is a unit."""
    units_per_row = summary.get("units_per_row", 1)
    if units_per_row == 1:
        return ""
    whole, _, by_status = _rows_phrase(summary["units"]).partition(": ")
    return f"{whole}, {count(units_per_row)} for each row: {by_status}"


def _by_number(errors: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(
        ((kind, number) for kind, number in errors.items() if number), key=lambda item: (-item[1], item[0])
    )


def _tokens_phrase(tokens: Mapping[str, int]) -> str:
    inputs = _with_parts(tokens, "input", {"cached_input": "cached", "cache_write": "written to the cache"})
    return f"{inputs}, {_with_parts(tokens, 'output', {'reasoning': 'reasoning'})}"


def _with_parts(tokens: Mapping[str, int], whole: str, parts: Mapping[str, str]) -> str:
    shown = ", ".join(f"{count(tokens[name])} {words}" for name, words in parts.items() if tokens.get(name))
    return f"{count(tokens.get(whole, 0))} {whole}" + (f" ({shown})" if shown else "")


def _time_phrase(summary: Mapping[str, Any]) -> str:
    requests = counted(summary.get("requests", summary["attempts"]), "request")
    noun = _units(summary)[1]
    return f"{duration(summary['seconds'])}, {rate(summary[f'{noun}s_per_second'], noun)}, {requests}"


def mistakes_text(mistakes: Sequence[Mistake], advice: str = "") -> str:
    """The mistakes, numbered where there are several, and what to do next.

    The excerpt of a statement (LINE 3: ..., a caret below) keeps its lines.
    """
    if len(mistakes) == 1:
        lines = _message_lines(mistakes[0], "")
    else:
        digits = len(str(len(mistakes)))
        lines = [f"{counted(len(mistakes), 'mistake')}:"]
        for number, mistake in enumerate(mistakes, 1):
            lines += _message_lines(mistake, f"  {number:>{digits}}. ")
    return "\n".join([*lines, one_line(advice)] if advice else lines)


def _message_lines(mistake: Mistake, mark: str) -> list[str]:
    message, line, excerpt = str(mistake).partition("\nLINE ")
    shown = (line[1:] + excerpt).splitlines() if line else []
    indent = " " * (len(mark) + 2)
    return [mark + one_line(message), *(indent + printable_line(each) for each in shown)]


def printable_line(line: str) -> str:
    """The line as `one_line` shows it, with all its blanks."""
    return "".join("\ufffd" if _is_harmful(character) else character for character in line.expandtabs(1))
