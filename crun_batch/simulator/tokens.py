"""What a token is: the one place that counts text, for usage and for charges alike.

Two real rules. `o200k` is the public vocabulary of the newer OpenAI models, counted by bpe-openai. `words` needs
no vocabulary: a run of up to eight letters with the space before it, a run of up to three digits, any other
character, and a run of further white space are a token each; so it never counts more tokens than UTF-8 bytes.
A third one, `quarters`, is for measuring speed: a token per four UTF-8 bytes costs next to nothing to count.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache, lru_cache

from msgspec import Struct

_PIECE = re.compile(r" ?[^\W\d_]{1,8}|\d{1,3}|[^\w\s]|_|\s+|\w")
_VOCABULARY = "o200k_base"


class Tokenizer(Struct, frozen=True):
    """`count(text)` -> tokens; `count_common` the same, remembered, for texts that come again and again.

    `cut(text, tokens)` -> the text's first so many tokens.
    """

    name: str
    count: Callable[[str], int]
    count_common: Callable[[str], int]
    cut: Callable[[str, int], str]


@cache
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name; `auto` is o200k where bpe-openai is installed, and words elsewhere."""
    if name == "auto":
        return load_tokenizer("o200k" if importlib.util.find_spec("bpe_openai") else "words")
    count, cut = _o200k() if name == "o200k" else _RULES[name]
    return Tokenizer(name, count, lru_cache(maxsize=4096)(count), cut)


def _o200k() -> tuple[Callable[[str], int], Callable[[str, int], str]]:
    import bpe_openai  # takes half a second to load
    from bpe_openai import _bindings  # what the package itself refuses, as too long a text, this counts

    whole, compiled = bpe_openai.get_encoding(_VOCABULARY), _bindings.tokenizer_for_encoding(_VOCABULARY)

    def cut(text: str, tokens: int) -> str:
        return str(whole.decode(compiled.encode(text)[:tokens], errors="ignore"))

    return compiled.count, cut


def _count_words(text: str) -> int:
    return len(_PIECE.findall(text))


def _cut_words(text: str, tokens: int) -> str:
    return "".join(_PIECE.findall(text)[:tokens])


def _count_quarters(text: str) -> int:
    return -(-len(text.encode()) // 4)


def _cut_quarters(text: str, tokens: int) -> str:
    return text.encode()[: 4 * tokens].decode(errors="ignore")


_RULES = {"words": (_count_words, _cut_words), "quarters": (_count_quarters, _cut_quarters)}
