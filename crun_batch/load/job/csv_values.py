"""The values of `input.csv`: one character, a text encoding of Python's, a quote."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema


def _delimiter(value: Any) -> Any:
    value = {"tab": "\t", "\\t": "\t"}.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, str) or not re.fullmatch(r"[\t -~]", value) or value.isalnum() or value in "\"' ":
        raise ValueError('must be one character such as ";" or "|", or tab')
    return value


def _quote(value: Any) -> Any:
    if value not in ("'", '"', "none"):
        raise ValueError("must be one of ', \", none")
    return value


def _encoding(value: Any) -> Any:
    try:
        is_text = isinstance(value, str) and codecs.lookup(value)._is_text_encoding
    except LookupError:
        is_text = False
    if not is_text:
        raise ValueError("must be the name of an encoding such as utf-8, cp1252, utf-16, shift_jis")
    return value


Delimiter = Annotated[str, BeforeValidator(_delimiter), WithJsonSchema({"type": "string"})]
Quote = Annotated[str, BeforeValidator(_quote), WithJsonSchema({"enum": ["'", '"', "none"]})]
Encoding = Annotated[str, BeforeValidator(_encoding), WithJsonSchema({"type": "string"})]
