"""No secret in what is recorded, however a gateway spells it; and nothing else is cut out of an answer."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import orjson
import polars as pl
import pytest
from chaos.hostile_server import JSON, REPLIES, HostileGateway, answer
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crun_batch import run
from crun_batch.errors import InputError
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.load.job.job import Job
from crun_batch.workload.redaction import Redactor

KEY = 'sk-MARKED/key+0123"=\\abc'
TOKEN = "tok~9876543210"
ENVIRON = {"KEY": KEY.replace('"', "'"), "TOK": TOKEN}
Echo = tuple[int, dict[str, str], bytes]

keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)
spellings = st.sampled_from(["plain", "json", "JSON", "deep json", "url"])


def spelled(character: str, spelling: str) -> str:
    """The character as it may stand in a JSON text."""
    code = f"{ord(character):04x}"
    escapes = {
        "json": f"\\u{code}",
        "JSON": f"\\u{code.upper()}",
        "deep json": f"\\\\u{code}",
        "url": f"%{code[2:]}",
        "plain": json.dumps(character)[1:-1],
    }
    return escapes[spelling]


def decodings(text: str) -> list[str]:
    """The text, and what each decoder, applied until nothing changes, makes of it."""
    seen = [text]
    for _ in range(3):
        text = unquote(text)
        for _ in range(3):
            try:
                text = json.loads(f'"{text}"')
            except ValueError:
                break
        seen.append(text)
    return seen


def texts_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in texts_of(item)] if isinstance(value, list) else []


@settings(deadline=None)
@given(keys, st.data())
def test_no_text_of_a_reply_decodes_to_the_key(key, data):
    """For any key, and any of its characters escaped in JSON, in JSON in JSON or for a URL."""
    ways = data.draw(st.lists(spellings, min_size=len(key), max_size=len(key)))
    body = '{"choices": [{"message": {"content": "so: ' + "".join(map(spelled, key, ways)) + '."}}]}'
    clean = Redactor([key])(body.encode())
    assert [] == [text for text in texts_of(orjson.loads(clean)) for one in decodings(text) if key in one]
    assert b"secret removed" in clean


def chat_delta(text: str, index: int = 0) -> dict[str, object]:
    return {"id": "c", "choices": [{"delta": {"content": text}, "index": index}]}


def call_delta(text: str, index: int = 0) -> dict[str, object]:
    calls = [{"function": {"arguments": text, "name": "f"}, "index": index}]
    return {"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}


def messages_delta(text: str, index: int = 0) -> dict[str, object]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def responses_delta(text: str, index: int = 0) -> dict[str, object]:
    return {"type": "response.output_text.delta", "output_index": index, "delta": text}


def stream_of(events: list[dict[str, object]]) -> bytes:
    return b"".join(b"event: x\ndata: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("delta", [chat_delta, call_delta, messages_delta, responses_delta])
@settings(deadline=None)
@given(key=keys, data=st.data())
def test_no_stream_has_the_key_in_its_pieces(delta, key, data):
    """For any cuts, between other texts, and also where two streams of one reply come in turns."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(key) - 1), max_size=6)))
    pieces = [key[a:b] for a, b in zip([0, *cuts], [*cuts, len(key)], strict=True)]
    events = [delta("so: ")]
    for piece in pieces:
        events += [delta(piece), delta("ab", 1)] if data.draw(st.booleans()) else [delta(piece)]
    clean = Redactor([key])(stream_of([*events, delta(". over")]))
    documents = read_stream(clean).events
    assert len(events) + 1 == len(documents)
    assert key not in "".join(text for event in documents for text in texts_of(event) if text != "ab")
    for protocol in PROTOCOLS.values():
        own = texts_of(
            protocol.assemble(stream_of([delta("so: ")])).payload
        )  # a short key may be part of our words
        told = texts_of(protocol.assemble(clean).payload)
        assert [] == [text for text in told if key in text and text not in own]
    assert b"secret removed" in clean
    assert b". over" in clean
    assert b"data: [DONE]" in clean


@settings(deadline=None)
@given(keys, st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), max_size=4))
def test_events_that_are_no_object_are_passed_over(key, values):
    """A reply of which none is left is lost, and it is paid: whatever its events are, it is looked through."""
    strange = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in [*values, 1, key])
    clean = Redactor([key])(strange + stream_of([chat_delta("so: ", 1), chat_delta(key, 1), chat_delta(".", 1)]))
    assert [] == [text for text in texts_of(read_stream(clean).events) if key in text]
    assert b"secret removed" in clean
    assert b'"."' in clean


@pytest.mark.parametrize("levels", [200, 500, *range(900, 1030, 10), 100_000])
@pytest.mark.parametrize("form", ["%s", "data: %s\n\n"])
def test_a_reply_of_any_depth_is_kept_without_the_key(levels, form):
    """What can just be read may be too deep to be written: then all of it goes."""
    clean = Redactor([KEY])((form % f'{{"a": {"[" * levels}{json.dumps(KEY)}{"]" * levels}}}').encode())
    assert json.dumps(KEY)[1:-1].encode() not in clean
    assert b"secret removed" in clean


@settings(deadline=None)
@given(keys, st.integers(1, 7))
def test_no_part_of_a_content_continues_the_key(key, cut):
    """A content of several parts is joined by our readers: the parts are searched as one."""
    parts = [{"type": "text", "text": key[:cut]}, {"type": "text", "text": key[cut:]}]
    reply = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    read = PROTOCOLS["chat"].read(orjson.loads(Redactor([key])(orjson.dumps(reply))))
    assert "[secret removed]" == read.text


@settings(deadline=None)
@given(keys, st.binary(max_size=300))
def test_a_body_without_the_key_stays_the_same_bytes(key, body):
    """Whatever bytes it is made of; the very object, so that nobody copies."""
    assume(key.encode() not in body)
    redact = Redactor([key])
    assert redact(body) is body
    assert not redact.are_clean([body, stream_of([chat_delta(key)])])


def test_looking_together_finds_what_looking_at_each_would():
    """One search for many replies: it may ask for a closer look in vain, never overlook."""
    redact = Redactor([KEY])
    for body in (
        KEY.encode(),
        orjson.dumps({"a": KEY}),
        KEY.replace("s", "\\u0073").encode(),
        stream_of([chat_delta(KEY[:4]), chat_delta(KEY[4:])]),
        b'{"content": [{"text": "sk-MARKED"}, {"text": "/key"}]}',
    ):
        assert not redact.are_clean([b"{}", body, b"{}"]), body
    assert redact.are_clean([b'{"text": "one"}', '{"text": "größe 50% \\"so\\n"}'.encode().replace(b'\\"', b"'")])


def test_a_run_of_backslashes_costs_no_more_than_its_length():
    """A hostile reply of a megabyte of them is searched in seconds, not hours."""
    body = b'{"a": "' + b"\\" * 2**20 + b'\\u0061"}'
    assert body == Redactor(["sk-0123456789"])(body)


def test_blank_lines_and_comments_between_events_are_not_read_as_events(monkeypatch):
    """A hostile reply of megabytes of them is searched in seconds, not minutes; a key in a comment goes too."""
    read: list[bytes] = []
    monkeypatch.setattr(
        "crun_batch.workload.redaction.decode", lambda data: read.append(data) or orjson.loads(data)
    )
    between = b"\n" * 2**16 + b": " + KEY.encode() + b"\n\n"
    events = [b"event: x\ndata: " + orjson.dumps(chat_delta(text, 1)) + b"\n\n" for text in ("so: ", KEY)]
    clean = Redactor([KEY])(b"".join(between + event for event in events) + between)
    assert len(read) < 8
    assert KEY.encode() not in clean
    assert [chat_delta("so: ", 1), chat_delta("[secret removed]", 1)] == list(read_stream(clean).events)


def recorded(
    tmp_path: Path, reply: tuple[int, dict[str, str], bytes], *, stream: bool = False
) -> tuple[bytes, str | None]:
    """A run of one row that is answered so: all bytes that it left, and the answer's text."""
    headers = {"X-Title": "positive review", "X-Auth": "Token ${TOK}"}
    with pytest.MonkeyPatch.context() as patch, HostileGateway() as gateway:
        patch.setitem(REPLIES, "echo", reply)
        ended = run(
            Job(
                name="secrets",
                endpoint={
                    "base_url": gateway.base_url,
                    "api_key_env": "KEY",
                    "headers": headers,
                    "stream": stream,
                },
                model="m",
                prompt={"user": "case echo {{ text }}"},
                budget={"credits": "off"},
                limits={"max_attempts": 1},
                output={"dir": str(tmp_path / "run")},
            ),
            table=pl.DataFrame({"text": ["a"]}),
            environ=ENVIRON,
        )
        ended.report()
    shown = [repr(ended.results().collect().to_dicts()), repr(ended.attempts().collect().to_dicts())]
    files = [path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    text = next(iter(ended.results().collect()["output_text"].to_list()), None)
    return b"\0".join([*files, *(one.encode() for one in shown)]), text


def test_a_literal_header_is_no_secret(tmp_path):
    """What the job file itself says of a header may stand in an answer: nobody hid it."""
    said = "a positive review, sent as Token of thanks"
    assert said == recorded(tmp_path, (200, JSON, answer(said)))[1]


SECRET = ENVIRON["KEY"]
ECHOES = {
    "request id": (200, {**JSON, "X-Request-Id": f"req-{SECRET}"}, answer()),
    "bare variable": (200, JSON, answer(f"your token is {TOKEN}.")),
    "variable with its scheme": (401, JSON, orjson.dumps({"error": {"message": f"bad Token {TOKEN}"}})),
    "redirect": (302, {"Location": f"https://{TOKEN}.example/"}, b""),
    "escaped": (200, JSON, answer("TEXT").replace(b"TEXT", "".join(f"\\u{ord(c):04x}" for c in SECRET).encode())),
    "model": (200, JSON, answer().replace(b'"m"', orjson.dumps(SECRET))),
    "response id": (200, JSON, answer().replace(b'"r"', orjson.dumps(SECRET))),
    "error": (400, JSON, orjson.dumps({"error": {"message": f"no key {SECRET}"}})),
    "page": (500, {"Content-Type": "text/html"}, f"<h1>{SECRET}</h1>".encode()),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_what_a_gateway_repeats_is_in_no_file(tmp_path, echo):
    """Wherever it says it: a header, a text, a model's name, an id, a message, the place of a redirect."""
    data, _ = recorded(tmp_path, ECHOES[echo])
    assert [] == [secret for secret in (SECRET, TOKEN) if secret.encode() in data]
    assert b"".join(f"\\u{ord(c):04x}".encode() for c in SECRET) not in data


def test_a_stream_that_spells_the_key_is_kept_without_it(tmp_path):
    """The answer says where something is missing; the deltas on disk do not add up to the key either."""
    events = [chat_delta("it is "), *map(chat_delta, SECRET), chat_delta(".")]
    events[-1]["choices"][0]["finish_reason"] = "stop"
    reply = (200, {"Content-Type": "text/event-stream"}, stream_of(events))
    data, text = recorded(tmp_path, reply, stream=True)
    assert "it is [secret removed]." == text
    assert SECRET.encode() not in data


@pytest.mark.parametrize(
    "url",
    ["https://user:{}@h.example/v1", "https://h.example/v1?key={}", "https://h/v1#{}", "ftp://h/x?key={}",
     "https://h:{}/v1?k=1", "https://h:{}/v1", "https://[{}/v1"],
)  # fmt: skip
def test_a_refused_base_url_shows_nothing_that_may_be_a_key(url):
    """Neither its user and password nor its query, fragment or what stands for its port."""
    with pytest.raises(InputError) as refused:
        Job(endpoint={"base_url": url.format("MARKED")}, model="m", prompt={"user": "x"})
    assert "MARKED" not in str(refused.value)
    assert "endpoint.base_url" in str(refused.value)
