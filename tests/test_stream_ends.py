"""The end of a stream, cut at any byte: whole where its finish reason came whole, else of unknown outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.protocol import Assembled, Protocol
from crun_batch.records import Failure, Reply, Response, Usage

USAGE = Usage(input_tokens=12, output_tokens=4)
OPENAI_USAGE = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
Pieces = list[tuple[str, bytes]]


def event(value: Any, role: str = "more") -> tuple[str, bytes]:
    return role, b"data: " + orjson.dumps(value) + b"\n\n"


def chat(texts: list[str]) -> Pieces:
    def chunk(delta: dict[str, Any], said: str | None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": said}]}

    pieces = [event(chunk({"content": text}, None)) for text in texts]
    pieces += [event(chunk({}, "stop"), "finish"), event({"choices": [], "usage": OPENAI_USAGE}, "usage")]
    return [*pieces, ("mark", b"data: [DONE]\n\n")]


def completions(texts: list[str]) -> Pieces:
    def chunk(text: str, said: str | None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "text": text, "finish_reason": said}]}

    pieces = [event(chunk(text, None)) for text in texts]
    pieces += [event(chunk("", "stop"), "finish"), event({"choices": [], "usage": OPENAI_USAGE}, "usage")]
    return [*pieces, ("mark", b"data: [DONE]\n\n")]


def messages(texts: list[str]) -> Pieces:
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
    return [
        event({"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}}),
        event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
            for text in texts
        ),
        event(last, "finish and usage"),
        event({"type": "message_stop"}, "mark"),
    ]


def responses(texts: list[str]) -> Pieces:
    item = {"type": "message", "content": [{"type": "output_text", "text": "".join(texts)}]}
    usage = {"input_tokens": 12, "output_tokens": 4, "total_tokens": 16}
    whole = {"status": "completed", "output": [item], "usage": usage}
    return [
        event({"type": "response.created", "response": {"status": "in_progress"}}),
        *(event({"type": "response.output_text.delta", "output_index": 0, "delta": text}) for text in texts),
        event({"type": "response.output_item.done", "output_index": 0, "item": item}),
        event({"type": "response.completed", "response": whole}, "finish and usage"),
    ]


STREAMS: dict[str, Callable[[list[str]], Pieces]] = {
    "chat": chat,
    "completions": completions,
    "messages": messages,
    "responses": responses,
}


class Expected(Struct):
    """What a stream that is cut there is: whole or not, and whether its counts came."""

    is_whole: bool = False
    has_usage: bool = False


def expected_of(pieces: Pieces, cut: int) -> Expected:
    """By the bytes alone: no JSON is read here."""
    expected = Expected()
    for role, piece in pieces:
        came = piece[:cut]
        cut = max(0, cut - len(piece))
        if len(came) >= len(piece.rstrip(b"\n")):
            expected.is_whole |= "finish" in role
            expected.has_usage |= "usage" in role
        elif came.startswith(b"data:") and came[5:].strip():
            return structs.replace(expected, is_whole=False)  # a piece of an object
    return expected


def law(protocol: Protocol, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """For any texts and any place of the cut, with comments and pings between the events."""

    @settings(deadline=None, max_examples=300, derandomize=True, database=None, phases=phases)
    @given(
        texts=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4),
        pings=st.lists(st.sampled_from([b"", b": ping\n\n", b"data: {}\n\n"]), min_size=12, max_size=12),
        place=st.floats(0, 1),
        near_the_end=st.booleans(),
    )
    def holds(texts: list[str], pings: list[bytes], place: float, near_the_end: bool) -> None:
        pieces = STREAMS[protocol.name](texts)
        quiet = [("ping", ping) for ping in pings]
        mixed = [piece for pair in zip(pieces, quiet, strict=False) for piece in pair]
        body = b"".join(piece for _, piece in mixed)
        cut = round(len(body) - place * 200) if near_the_end else round(place * len(body))
        cut = _outside_pings(mixed, max(0, cut))
        found = check(protocol, Response(200, {"content-type": "text/event-stream"}, body[:cut]), stream=True)
        expected = expected_of([piece for piece in mixed if piece[0] != "ping"], _without_pings(mixed, cut))
        if expected.is_whole:
            assert isinstance(found, Reply)
            assert ("".join(texts), "stop") == (found.text, found.finish_reason)
            assert (USAGE if expected.has_usage else None) == found.usage
        else:
            assert isinstance(found, Failure)
            assert ("unknown", "retry") == (found.outcome, found.action)

    holds()


def _outside_pings(mixed: Pieces, cut: int) -> int:
    """The cut, behind a ping where it would lie within one: half a ping is none."""
    end = 0
    for role, piece in mixed:
        end += len(piece)
        if cut <= end:
            return end if role == "ping" else cut
    return end


def _without_pings(mixed: Pieces, cut: int) -> int:
    """Where the same cut lies among the events alone."""
    left = 0
    for role, piece in mixed:
        here = min(cut, len(piece))
        left, cut = left + (0 if role == "ping" else here), cut - here
    return left


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_whole_where_its_finish_reason_came_whole(name: str) -> None:
    """Its text is whole then, its usage known where that came too; before, and where a piece is cut, all is
    unknown."""
    law(PROTOCOLS[name])  # type: ignore[index]


def _always_complete(assembled: Assembled) -> Assembled:
    return structs.replace(assembled, complete=assembled.payload is not None)


def _only_with_a_mark(assembled: Assembled) -> Assembled:
    return structs.replace(assembled, complete=False)


def _forgets_usage(assembled: Assembled) -> Assembled:
    payload = {key: value for key, value in (assembled.payload or {}).items() if key != "usage"}
    return structs.replace(assembled, payload=payload or None)


@pytest.mark.parametrize("wrong", [_always_complete, _only_with_a_mark, _forgets_usage])
@pytest.mark.parametrize("name", STREAMS)
def test_the_law_finds_a_reader_that_breaks_it(name: str, wrong: Callable[[Assembled], Assembled]) -> None:
    """One that calls a cut stream whole, a whole one cut, or loses the counts."""
    protocol = PROTOCOLS[name]  # type: ignore[index]
    with pytest.raises(AssertionError):
        law(structs.replace(protocol, assemble=lambda body: wrong(protocol.assemble(body))), [Phase.generate])
