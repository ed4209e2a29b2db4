"""Structured output: what of a JSON Schema each protocol is told.

Owns the name of the schema and the question whether a schema is strict. Validating answers is somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from crun_batch.gateway.protocols.protocol import decode, encode

SCHEMA_NAME = "answer"
"""The name of the schema, and of the tool that stands for it in the messages protocol."""

_SUBSCHEMAS = ("properties", "$defs", "definitions")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def strict_schema(output_schema: Mapping[str, Any]) -> tuple[bytes, bool]:
    """The schema as JSON in its own order (models answer in it), and whether strict mode would take it.

    OpenAI's strict mode answers 400 unless every object forbids additional properties and requires all of its
    own, so strict is said only where that holds; any other schema is still sent, as a description.
    """
    text = encode(output_schema)
    return text, _text_is_strict(text)


@lru_cache(maxsize=64)
def _text_is_strict(text: bytes) -> bool:
    return _is_strict(decode(text))


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is not True
    properties = schema.get("properties")
    if properties is not None or schema.get("type") == "object":
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False or set(properties or ()) != set(required):
            return False
    below = [schema["items"]] if "items" in schema else []
    for key in _SUBSCHEMAS:
        below += schema.get(key, {}).values()
    for key in _SUBSCHEMA_LISTS:
        below += schema.get(key, [])
    return all(_is_strict(item) for item in below)


def schema_words(output_schema: Mapping[str, Any]) -> str:
    """The sentence that asks for the schema where the protocol has no field for it."""
    schema = orjson.dumps(output_schema).decode()
    return f"Answer with one JSON value that is valid against this JSON Schema, and nothing else:\n{schema}"
