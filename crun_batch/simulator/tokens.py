"""What a token is: the one place that counts text, for usage and for charges alike.

Two rules. `o200k` is the public vocabulary of the newer OpenAI models, counted by bpe-openai. `words` needs no
vocabulary: a run of up to eight letters with the space before it, a run of up to three digits, any other
character, and a run of further white space are a token each; so it never counts more tokens than UTF-8 bytes.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct

_PIECE = re.compile(r" ?[^\W\d_]{1,8}|\d{1,3}|[^\w\s]|_|\s+|\w")


class Tokenizer(Struct, frozen=True):
    """`count(text)` -> tokens; `cut(text, tokens)` -> the text's first so many tokens."""

    name: str
    count: Callable[[str], int]
    cut: Callable[[str, int], str]


@lru_cache(maxsize=2)
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name; `auto` is o200k where bpe-openai is installed, and words elsewhere."""
    if name == "auto":
        name = "o200k" if importlib.util.find_spec("bpe_openai") else "words"
    return _o200k() if name == "o200k" else Tokenizer("words", _count_words, _cut_words)


def _o200k() -> Tokenizer:
    import bpe_openai  # takes a second to load its vocabulary

    encoding = bpe_openai.get_encoding("o200k_base")

    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text))

    def cut(text: str, tokens: int) -> str:
        return str(encoding.decode(encoding.encode_ordinary(text)[:tokens], errors="ignore"))

    return Tokenizer("o200k", lru_cache(maxsize=1024)(count), cut)


@lru_cache(maxsize=1024)
def _count_words(text: str) -> int:
    return len(_PIECE.findall(text))


def _cut_words(text: str, tokens: int) -> str:
    return "".join(_PIECE.findall(text)[:tokens])
