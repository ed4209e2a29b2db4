"""Secrets cut out of what a gateway says: of raw bytes, before they are read or recorded.

A gateway may repeat a key in other letters than ours (JSON or percent escapes of any of its characters, base64) or
in pieces that a reader joins: the deltas of a stream, the parts of a content. Whatever is decoded from what
this gives back holds no secret either, and where there is none the very same bytes come back.

Rules: a reply without a suspicious byte costs one search of its bytes; only one with escapes of printable
characters, or of several pieces, is looked at more closely. What is cut is the secret, never a text that the job
file itself holds. Secrets are printable ASCII: nothing else can stand in a header.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from msgspec import Struct

from crun_batch.gateway.protocols.protocol import decode, encode

SHORTEST_SECRET_CHARACTERS = 8
"""A shorter value is a word that answers hold by chance."""
REDACTED = b"[secret removed]"
_PERCENT = re.compile("%..")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_JSON_ESCAPE = re.compile(rb"\\u00(?:[2-7]|09)")
_URL_ESCAPE = re.compile(rb"%(?:[2-7][0-9A-Fa-f]|09)")
"""Escapes of characters that need none."""
_FIELD = re.compile(rb'"([^"\\]*)"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"')
"""A field of JSON whose value is a text."""
_SEVERAL = re.compile(rb'index"\s*:\s*[^0\s]|[":][ \t]*[\r\n]')
"""Several streams in one, or an event of several lines: its fields are not simply one after the other."""
_MOST_BACKSLASHES = 16
"""Each level of JSON in JSON doubles them: four levels."""
_PARTS = b'"text"'
"""The field whose values our readers join within one reply that is not streamed."""
_PARTS_END = _PARTS[1:]
"""Found four times as fast: a search passes over what cannot end so, and most of JSON could begin with a quote."""


class _Place(Struct, frozen=True):
    """Where a text stands in decoded JSON: `holder[key]`."""

    holder: Any
    key: Any

    @property
    def raw(self) -> bytes:
        return str(self.holder[self.key]).encode("utf-8", "surrogatepass")


class Redactor:
    """Removes the secrets from a body: `redact(body)`, the same object where there is nothing to remove."""

    __slots__ = ("_any_form", "_escaped", "_in_place", "_needles")

    def __init__(self, secrets: Sequence[str]) -> None:
        secrets = [secret for secret in dict.fromkeys(secrets) if len(secret) >= SHORTEST_SECRET_CHARACTERS]
        secrets.sort(key=len, reverse=True)  # of two of which one holds the other the longer one is cut
        self._needles = tuple(dict.fromkeys(form for secret in secrets for form in _forms(secret)))
        self._escaped = tuple(f"\\{c}".encode() for c in '"\\/' if any(c in secret for secret in secrets))
        self._any_form = _pattern(secrets)
        # a secret with a quote or a backslash is cut in decoded texts only: bytes of JSON without it could be none
        self._in_place = _pattern([secret for secret in secrets if not {'"', "\\"} & set(secret)])

    def __repr__(self) -> str:
        return "Redactor(...)"

    def are_clean(self, bodies: Sequence[bytes]) -> bool:
        """Whether one search of all bodies together is enough to know that none holds a secret."""
        if self._any_form is None:
            return True
        together = b"\0".join(bodies)  # no secret has a zero byte
        if self._is_suspicious(together) or b"data:" in together:
            return False
        return together.count(_PARTS_END) < 2 or not any(body.count(_PARTS) > 1 for body in bodies)

    def __call__(self, body: bytes) -> bytes:
        """The body without the secrets. Where pieces had to be rewritten it is JSON of the same meaning."""
        if self._any_form is None:
            return body
        is_suspicious = self._is_suspicious(body)
        if is_suspicious and self._in_place is not None:
            clean = self._in_place.sub(REDACTED, body)
            body = body if clean == body else clean
        if is_suspicious or body.count(_PARTS) > 1 or (b"data:" in body and not self._is_clean_stream(body)):
            return self._without_pieces(body)
        return body

    def _is_suspicious(self, data: bytes) -> bool:
        """Whether it holds a secret, or an escape that may be a piece of one."""
        return (
            any(needle in data for needle in self._needles)
            or any(escape in data for escape in self._escaped)
            or (b"\\u00" in data and _JSON_ESCAPE.search(data) is not None)
            or (b"%" in data and _URL_ESCAPE.search(data) is not None)
        )

    def _is_clean_stream(self, body: bytes) -> bool:
        """Whether the texts of no field, one after the other, hold a secret. Only for bodies without escapes."""
        if _SEVERAL.search(body):
            return False
        texts: dict[bytes, list[bytes]] = {}
        for name, text in _FIELD.findall(body):
            texts.setdefault(name, []).append(text)
        joined = b"\0".join([b"".join(pieces) for pieces in texts.values()])
        return not any(needle in joined for needle in self._needles)

    def words(self, text: str) -> str:
        """A header's value or a message without the secrets, in any spelling."""
        raw = text.encode("utf-8", "surrogatepass")
        clean = self(raw)
        return text if clean is raw else clean.decode("utf-8", "surrogatepass")

    def _without_pieces(self, body: bytes) -> bytes:
        """The secrets that stand only in decoded texts, or that only a reader puts together of several."""
        assert self._any_form is not None
        is_json = body.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] in (b"{", b"[")
        blocks = [(body, body)] if is_json else list(_blocks(body))
        documents = [_decoded(data) if data else None for data, _ in blocks]
        is_cut = self._cut(documents)
        written: list[bytes] = []
        for document, (_, lines) in zip(documents, blocks, strict=True):
            if document is None:
                written.append(self._any_form.sub(REDACTED, lines))
            elif not is_cut:
                written.append(lines)
            else:
                data = _written(document)
                written.append(data if is_json else _rewritten(data, lines))
        clean = b"".join(written)
        return body if clean == body else clean

    def _cut(self, documents: Sequence[Any]) -> bool:
        """Whether there was something to cut."""
        assert self._any_form is not None
        found = False
        for places in _joined_places(documents):
            pieces = [place.raw for place in places]
            spans = [match.span() for match in self._any_form.finditer(b"".join(pieces))]
            if spans:
                found = True
                _cut_spans(places, pieces, spans)
        return found


def _forms(secret: str) -> list[bytes]:
    """The secret as it is, in a URL, in JSON, and in base64 wherever it begins in a longer text."""
    raw = secret.encode()
    forms = [raw, orjson.dumps(secret)[1:-1], orjson.dumps(secret)[1:-1].replace(b"/", b"\\/")]
    for url_text in (quote(secret), quote(secret, safe="")):
        forms += [url_text.encode(), _PERCENT.sub(lambda found: found[0].lower(), url_text).encode()]
    for before in range(3):
        first, last = -(-8 * before // 6), 8 * (before + len(raw)) // 6
        coded = base64.b64encode(bytes(before) + raw)[first:last]
        forms += [coded, coded.translate(_URL_SAFE)]
    return forms


def _pattern(secrets: Sequence[str]) -> re.Pattern[bytes] | None:
    """Any form of any of the secrets; None where there are none."""
    if not secrets:
        return None
    plain = [form for secret in secrets for form in _forms(secret)]
    first = b"".join(re.escape(form[:1]) for form in [b"\\", b"%", *plain])  # most places are left at once
    return re.compile(b"(?=[%s])(?:%s)" % (first, b"|".join([*map(_spelled, secrets), *map(re.escape, plain)])))


def _spelled(secret: str) -> bytes:
    """A pattern of the secret with any of its characters escaped, in JSON (or JSON in JSON) or in a URL."""
    return b"".join(
        rb"\\{0,%d}(?:%s|u00%s|%%%s)" % (_MOST_BACKSLASHES, re.escape(c.encode()), code, code)
        for c in secret
        for code in ["".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(c):02x}").encode()]
    )


def _decoded(data: bytes) -> Any:
    """The JSON object or list; None for what is none: nobody reads pieces out of it."""
    try:
        value = decode(data)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _written(document: Any) -> bytes:
    """The JSON; of what is nested too deeply to be written, nothing but that it held a secret."""
    try:
        return encode(document)
    except ValueError:
        return REDACTED


def _blocks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each event of a stream: its data, and the lines from there to the blank one.

    What stands between two has no data, and is one block: there may be a million blank lines.
    """
    data: list[bytes] = []
    lines: list[bytes] = []
    for line in body.splitlines(keepends=True):
        bare = line.strip(b"\r\n").removeprefix(codecs.BOM_UTF8)
        if bare.startswith(b"data:"):
            if lines and not data:
                yield b"", b"".join(lines)
                lines = []
            data.append(bare[5:].removeprefix(b" "))
        lines.append(line)
        if data and not bare:
            yield b"\n".join(data), b"".join(lines)
            data, lines = [], []
    yield b"\n".join(data), b"".join(lines)


def _rewritten(data: bytes, lines: bytes) -> bytes:
    """An event with other data; its other lines stay."""
    others = [line for line in lines.splitlines() if line and b"data:" not in line[:8]]
    return b"\n".join([*others, b"data: " + data, b"", b""])


def _joined_places(documents: Sequence[Any]) -> Iterator[list[_Place]]:
    """The texts that a reader may join, in their order: those of one field, of one path, of one index and type."""
    groups: dict[tuple[object, ...], list[_Place]] = {}
    for document in documents:
        for place, path, marks in _places(document):
            for name in (path[-1:], (*path, None), (*path, *marks)):
                groups.setdefault(name, []).append(place)
    yield from groups.values()


def _places(document: Any) -> Iterator[tuple[_Place, tuple[str, ...], tuple[object, ...]]]:
    """Every text in its order, the names that lead to it, and the indices and types of the objects around it."""
    waiting: list[tuple[Any, tuple[str, ...], tuple[object, ...]]] = [(document, (), ())]
    while waiting:
        holder, path, marks = waiting.pop()
        if isinstance(holder, dict):
            marks += tuple(value for name, value in holder.items() if _is_mark(name, value))
            inside = [(name, value, (*path, name)) for name, value in holder.items()]
        else:
            inside = [(index, value, path) for index, value in enumerate(holder or ())]
        for key, value, names in inside:
            if isinstance(value, str):
                yield _Place(holder, key), names, marks
        waiting += [
            (value, names, marks) for _, value, names in reversed(inside) if isinstance(value, dict | list)
        ]


def _is_mark(name: str, value: object) -> bool:
    return (name.endswith("index") and isinstance(value, int)) or (name == "type" and isinstance(value, str))


def _cut_spans(places: Sequence[_Place], pieces: Sequence[bytes], spans: Sequence[tuple[int, int]]) -> None:
    """Takes the spans of the joined pieces out of each piece; the first piece of a span says so."""
    start = 0
    for place, piece in zip(places, pieces, strict=True):
        kept, at = [], start
        end = start + len(piece)
        for first, last in spans:
            if first < end and last > start:
                kept += [piece[at - start : max(first, start) - start], REDACTED if first >= start else b""]
                at = min(last, end)
        if kept:
            kept.append(piece[at - start :])
            place.holder[place.key] = b"".join(kept).decode("utf-8", "surrogatepass")
        start = end
