"""One row in words: what it was asked, each attempt, what was answered. From the plain document of `show`.

Texts keep their lines and are broken to the terminal's width; nothing that a model, a gateway or a table wrote
steers the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, counted, money
from crun_batch.console.words import display_width, one_line, printable_line

_WIDTH = 100
"""Where standard output is no terminal."""
_TOKENS = (("input_tokens", "input"), ("output_tokens", "output"), ("reasoning_tokens", "reasoning"))
_SECOND_HALF = "\x00"
"""Stands in no printable line: a wide character is two long while lines are broken."""


def row_text(document: Mapping[str, Any], width: int | None = None) -> str:
    """The row; each variant and repeat below the other, separated by a line."""
    columns = max(20, width or _WIDTH)
    units = document["units"]
    head = f"{one_line(document['name'])}, row {one_line(str(document['id']))}: {counted(len(units), 'result')}"
    lines = [*_wrapped(head, columns, "")]
    if not units:
        lines.append("nothing is recorded of this row yet: it was not sent, or no reply has come")
    shown: list[Any] = []
    for unit in units:
        lines += ["", "=" * columns, *_unit(unit, columns, shown)]
    return "\n".join(lines)


def _unit(unit: Mapping[str, Any], width: int, shown: list[Any]) -> Iterator[str]:
    """`shown` holds the prompts that stand above already: the same one is not repeated."""
    cost = _cost(unit.get("cost_usd"), unit.get("cost_credits"))
    head = f"{unit['variant']}, repeat {unit['repeat']}: {unit['status']}"
    yield from _wrapped(f"{head}, {cost}" if unit["status"] != "open" else head, width, "")
    if unit.get("error_message"):
        kind = f"{unit['error_kind']}: " if unit.get("error_kind") else ""
        yield from _block("why", f"{kind}{unit['error_message']}", width)
    if unit["prompt"] is not None:
        yield "given the answer to an identical request"
        yield from _messages(unit["prompt"], width, shown)
    for attempt in unit["attempts"]:
        yield from _attempt(attempt, width, shown, final=unit.get("output_text"))
    yield ""
    for number, text in enumerate(unit.get("outputs") or (), 1):
        yield from _block(f"turn {number}", text, width)
    if not unit.get("outputs") and unit.get("output_text") is not None:
        yield from _block("answer", unit["output_text"], width)
    if unit.get("tool_calls") is not None:
        yield from _block("tool calls", unit["tool_calls"], width)
    for name, score in unit["scores"].items():
        yield from _wrapped(f"score {name}: {UNKNOWN if score is None else f'{score:.4g}'}", width, "")


def _attempt(attempt: Mapping[str, Any], width: int, shown: list[Any], final: str | None) -> Iterator[str]:
    """What was asked, how it went, and what came, but for the unit's answer, which stands below all."""
    yield ""
    yield from _wrapped(_how_it_went(attempt), width, "  ")
    if attempt["error_message"]:
        kind = f"{attempt['error_kind']}: " if attempt["error_kind"] else ""
        yield from _block("gateway", f"{kind}{attempt['error_message']}", width)
    yield from _messages(attempt, width, shown)
    if attempt["reason"] is not None:
        yield from _block("reason", attempt["reason"], width)
    elif attempt["answer"] is not None and attempt["answer"] != final:
        yield from _block("reply", attempt["answer"], width)
    for name in ("request", "reply"):
        if attempt.get(name):
            yield from _block(f"raw {name}", attempt[name], width)


def _cost(usd: Any, credits_: Any) -> str:
    """$0.01 (2 credits); cost unknown, as other things may be."""
    told = money(usd, credits_)
    return f"cost {UNKNOWN}" if told == UNKNOWN else told


def _how_it_went(attempt: Mapping[str, Any]) -> str:
    """-- attempt 1, turn 2, repair: done, HTTP 200, 12 input and 3 output tokens, $0.01, 1.2 s, at 12:00:01."""
    who = f"judge {attempt['judge']}" if attempt["judge"] else attempt["purpose"]
    tokens = [f"{count(attempt[name])} {word}" for name, word in _TOKENS if attempt[name] is not None]
    latency, began = attempt["latency_seconds"], attempt["started_at"]
    rows = attempt.get("pack_rows")
    phrases = [
        f"-- attempt {attempt['attempt']}, turn {attempt['turn'] + 1}, {who}: {attempt['outcome']}",
        f"row {attempt['pack_place']} of {rows} in one request" if rows else "",
        f"HTTP {attempt['http_status']}" if attempt["http_status"] is not None else "no reply",
        f"{', '.join(tokens)} tokens" if tokens else "",
        _cost(attempt["cost_usd"], attempt["cost_credits"]),
        f"billed for {attempt['other_charges']} too" if attempt.get("other_charges") else "",
        f"{latency:.3g} s" if latency is not None else "",
        f"at {began:%Y-%m-%d %H:%M:%S} UTC" if isinstance(began, datetime) else "",
        f"finish: {attempt['finish_reason']}" if attempt["finish_reason"] else "",
    ]
    return ", ".join(phrase for phrase in phrases if phrase)


def _messages(prompt: Mapping[str, Any], width: int, shown: list[Any]) -> Iterator[str]:
    messages = prompt["messages"]
    if messages is None:
        yield from _block("prompt", f"not shown: {prompt['not_shown']}", width)
        return
    if messages in shown:
        yield from _block("prompt", "as above", width)
        return
    shown.append(messages)
    for message in messages:
        if message["text"] or not message["attachments"]:
            yield from _block(message["role"], message["text"], width)
        for name in message["attachments"]:
            yield from _block(f"{message['role']}, attached", name, width)


def _block(title: str, text: str, width: int) -> Iterator[str]:
    """A title and a text with its own lines, each broken to the width and set in."""
    lines = str(text).splitlines() or [""]
    yield from _wrapped(f"{title}: {lines[0]}", width, "  ")
    for line in lines[1:]:
        yield from _wrapped(line, width, "    ")


def _wrapped(text: str, width: int, indent: str) -> Iterator[str]:
    """The line in lines of at most `width` columns, wide characters counted as two; its blanks stay."""
    safe = printable_line(text)
    room = width - len(indent)
    if len(safe) <= room and safe.isascii():
        yield (indent + safe).rstrip()
        return
    wide = "".join(one + _SECOND_HALF if display_width(one) == 2 else one for one in safe)
    narrow = max(4, room - (len(wide) > len(safe)))  # the break may fall between a wide character's halves
    pieces = textwrap.wrap(wide, narrow, subsequent_indent="  ", drop_whitespace=True, replace_whitespace=False)
    yield from ((indent + piece.replace(_SECOND_HALF, "")).rstrip() for piece in pieces or [""])
