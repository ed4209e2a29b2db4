"""The program of a process that counts tokens: started by its file, without site-packages or anything of ours.

    python -I -S child.py FOLDER VOCABULARY IDLE_SECONDS

FOLDER holds the compiled module of bpe-openai, and is all that is added to the standard library: the start takes
10 ms beside the 50 ms of the vocabulary. When that is loaded, READY is written. Then come questions: how many
texts, the bytes of each, the texts in UTF-8, one after the other; and go answers: the tokens of each. Numbers have
8 bytes, in the machine's order. A question is read whole before it is answered: neither end waits for the other.

It ends when it was asked nothing for so long, and at the end of its input: whatever its parent dies of ends that.
"""

from __future__ import annotations

import struct
import sys
from itertools import accumulate, pairwise
from select import select

TYPE_CHECKING = False  # typing and collections.abc take as long to load as all the rest of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

READY = b"+"
NUMBER_BYTES = 8


def question_of(texts: Sequence[str]) -> bytes:
    """What is asked about these texts. A lone surrogate is counted as the replacement that is sent of it."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return b"".join([_written([len(encoded), *map(len, encoded)]), *encoded])


def numbers_of(data: bytes) -> list[int]:
    """The numbers that were written as these bytes."""
    return list(struct.unpack(f"={len(data) // NUMBER_BYTES}Q", data))


def _written(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"={len(numbers)}Q", *numbers)


def _texts_of(questions: BinaryIO) -> list[str] | None:
    """Those of the next question; None where there is none, or not all of it."""
    head = questions.read(NUMBER_BYTES)
    if len(head) < NUMBER_BYTES:
        return None
    [texts] = numbers_of(head)
    lengths = questions.read(texts * NUMBER_BYTES)
    if len(lengths) < texts * NUMBER_BYTES:
        return None
    places = list(accumulate(numbers_of(lengths), initial=0))
    data = questions.read(places[-1])
    return [data[start:end].decode() for start, end in pairwise(places)] if len(data) == places[-1] else None


def main(folder: str, vocabulary: str, idle_seconds: str) -> None:
    """Answer what is asked on standard input, until nothing more is."""
    sys.path.append(folder)
    import _bindings  # by itself: its package takes 1.2 s to make more tables in Python

    count = _bindings.tokenizer_for_encoding(vocabulary).count
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    said = READY
    while True:
        answers.write(said)
        answers.flush()
        asked, _, _ = select([questions], [], [], float(idle_seconds))
        texts = _texts_of(questions) if asked else None
        if texts is None:
            return
        said = _written([count(text) for text in texts])


if __name__ == "__main__":
    main(*sys.argv[1:])
