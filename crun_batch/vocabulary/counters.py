"""The counter for a model: exact with its vocabulary where that is installed, a stated approximation elsewhere.

bpe-openai is optional: it has no wheel for every platform. Nothing is loaded or started before a text is counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path

from crun_batch.pricing.tokens import APPROXIMATE, Counter, vocabulary_of
from crun_batch.vocabulary.process import VocabularyProcess


def token_counter(model: str) -> Counter:
    """Exact for OpenAI's models where bpe-openai is installed, else UTF-8 bytes / 4.

    Its calls raise RefusedToStart where the process that counts is killed, and another one too.
    """
    name = vocabulary_of(model)
    if name is None or _bindings() is None:
        return APPROXIMATE
    return Counter(partial(_count_all, name), exact=True, name=name)


def _count_all(name: str, texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    counts = _process(name).count_all(texts)
    return _count_here(name, texts) if counts is None else counts


@cache
def _process(name: str) -> VocabularyProcess:
    bindings = _bindings()
    assert bindings is not None and bindings.origin is not None
    return VocabularyProcess(name, Path(bindings.origin).parent)


os.register_at_fork(after_in_child=_process.cache_clear)  # of two at the same pipes, one reads the other's answers


def _count_here(name: str, texts: Sequence[str]) -> list[int]:
    """Where no process can be started: the same counts, and 70 MB for as long as this one runs."""
    count = _vocabulary(name)
    return [count(text.encode("utf-8", "replace").decode()) for text in texts]


@cache
def _vocabulary(name: str) -> Callable[[str], int]:
    spec = _bindings()
    assert spec is not None and spec.loader is not None
    bindings = module_from_spec(spec)
    spec.loader.exec_module(bindings)
    count: Callable[[str], int] = bindings.tokenizer_for_encoding(name).count
    return count


@cache
def _bindings() -> ModuleSpec | None:
    """Where the compiled module of bpe-openai is: its package takes 1.2 s to make more tables in Python."""
    package = find_spec("bpe_openai")
    if package is None:
        return None
    spec = PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError("bpe_openai has no _bindings; crun-batch knows its versions 0.1.4 and up, below 0.2")
    return spec
