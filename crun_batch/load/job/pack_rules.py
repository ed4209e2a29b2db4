"""What `pack` cannot stand beside, and what to write instead: a table over the tree as written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.load.job.places import KeyPath

Look = Callable[[str], Any]
"""A dotted key -> what is written there; None: nothing."""


class Unpacked(NamedTuple):
    """With `key` as `is_met` says, rows are not packed, because of `why`."""

    key: str
    is_met: Callable[[Any], bool]
    why: str


def _is_written(value: Any) -> bool:
    return value is not None


def _is_several(value: Any) -> bool:
    return value not in (None, 1)


RULES: tuple[Unpacked, ...] = (
    Unpacked("prompt.turns", _is_written, "a conversation belongs to one row; write it as prompt.messages"),
    Unpacked(
        "prompt.messages_column",
        _is_written,
        "each row would bring its own first words; write prompt.system and prompt.user",
    ),
    Unpacked(
        "prompt.body_column",
        _is_written,
        "a body is sent as it is, byte for byte; write model, prompt.system and prompt.user",
    ),
    Unpacked("params.tools", _is_written, "a call of a tool is for one row; take the tools out"),
    Unpacked("params.tool_choice", _is_written, "a call of a tool is for one row; take it out"),
    Unpacked(
        "params.response_format",
        _is_written,
        "the reply's form is the pack's own; write output_schema for that of each answer",
    ),
    Unpacked("params.text", _is_written, "the reply's form is the pack's own; write output_schema"),
    Unpacked("params.n", _is_several, "several choices would be several packs; use repeats"),
    Unpacked("params.best_of", _is_several, "several choices would be several packs; use repeats"),
    Unpacked("params.stop", _is_written, "a stop sequence would end the reply at the first row; take it out"),
    Unpacked(
        "params.stop_sequences", _is_written, "a stop sequence would end the reply at the first row; take it out"
    ),
    Unpacked(
        "lane",
        goes_in_batches,
        "a request of a batch belongs to one row; keep lane: batch or pack, whichever `estimate` finds cheaper",
    ),
    Unpacked(
        "endpoint.protocol",
        lambda protocol: protocol == "completions",
        "a completion has no message of its own for each row; use chat, responses or messages",
    ),
)


def goes_with_pack(look: Look) -> bool:
    """Whether a job in which this is written may say `pack`."""
    return not any(rule.is_met(look(rule.key)) for rule in RULES)


def pack_mistakes(pack: Any, look: Look) -> Iterator[tuple[KeyPath, str]]:
    """Where a job that packs says what cannot be packed, with what to write instead."""
    if not isinstance(pack, Mapping):
        return
    for rule in RULES:
        if rule.is_met(look(rule.key)):
            yield tuple(rule.key.split(".")), f"does not go with pack: {rule.why}"
    if pack.get("format") == "lines" and look("output_schema") is not None:
        yield ("pack", "format"), "must be json with output_schema: an object has no line of its own"
    messages = look("prompt.messages")
    if isinstance(messages, list) and messages and not _is_text_of_user(messages[-1]):
        yield (
            ("prompt", "messages"),
            "must end with a text of the user with pack: files and parts belong to one row",
        )


def _is_text_of_user(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return True  # its own type says so
    return message.get("role") == "user" and isinstance(message.get("content"), str)
