"""What comes from a server that is no gateway, or from no path of one: web pages, and their words for "not here".

An address with a slip (no /v1, a path too much, a port of something else) meets these before anything is sent to a
model. Sources of the words: what nginx, Apache, Go's net/http, Express, FastAPI, Kong, Azure, OpenAI and llama.cpp
answer to an unknown path.
"""

from __future__ import annotations

import codecs
import html
import re

READ_OF_A_PAGE = 16_384
"""Bytes or characters that are looked at."""
NO_SUCH_PATH = frozenset(
    {
        "",
        "404",
        "not found",
        "404 not found",
        "404 page not found",
        "404: not found",
        "page not found",
        "path not found",
        "file not found",
        "resource not found",
        "the resource you are looking for has been removed, had its name changed, or is temporarily unavailable",
        "method not allowed",
        "405 method not allowed",
        "405 not allowed",
    }
)
"""Whole messages, in lower case and without their dot, that say nothing of a model or of a row."""

_TITLE = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>[^<]*", re.IGNORECASE)
_PAGE = re.compile(rb"(?:<!--.*?-->|<\?xml[^<>]*\?>|\s)*+<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)


def is_web_page(body: bytes) -> bool:
    """Whether a body is an HTML page."""
    return _PAGE.match(body[:READ_OF_A_PAGE].removeprefix(codecs.BOM_UTF8)) is not None


def words_of_page(body: bytes) -> str:
    """What a body that is no JSON says: the title of an HTML page or its text without tags, or the text itself."""
    text = body[:READ_OF_A_PAGE].decode("utf-8-sig", "replace").strip()
    if not text.startswith("<"):
        return text
    title = _TITLE.search(text)
    if title and title[1].strip():
        return html.unescape(title[1])
    return html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text))).strip()
