"""Answers as a pure function of seed and question: no clock, no order, no memory.

A style is a line in STYLES: it gets the question and a stream of seeded numbers and gives the text, in pieces
that no token crosses, so that pieces that come again need not be counted again. `auto` looks
at the question: labels to choose from, a known right answer, otherwise words.

    words   sentences that mix a fixed vocabulary with words of the prompt; length drawn as the settings say
    echo    a part of the last message, repeated
    label   one of the labels that the prompt lists, as in "one of: good, bad, mixed"
    number  the right answer of a known question (settings `gold`, or `[[gold:42]]` in the prompt), or, as
            often as the model's accuracy says, a wrong one; the last line is `#### 42`
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from statistics import NormalDist

import orjson
from msgspec import Struct

from crun_batch.simulator.asks import Ask, ModelAnswer, ModelUsage
from crun_batch.simulator.instances import instance
from crun_batch.simulator.settings import Model, Settings
from crun_batch.simulator.tokens import Tokenizer

MESSAGE_TOKENS = 4
"""What every message costs beyond its text, as documented for OpenAI's chat format; completions have none."""
REPLY_TOKENS = 3
"""What every chat-like request costs for the start of the reply, from the same source."""
IMAGE_TOKENS = 85
"""What an image or file part costs: OpenAI's figure for an image in low detail."""

_VOCABULARY_TEXT = """
a able about above across after again all almost along also always an and answer any are as at back be
because been before best better between both but by call can case cause change clear close come common
could count course cover day deal did different do does done down draw each early easy either end enough
even every example face fact fair far few final find first five follow for form found four from full
further gave general get give go good great group had half hand hard has have he help her here high him
his hold home how however idea if in increase into is it its just keep kind know large last late later
lead learn least leave left less let level light like likely line list little long look made main make
many may mean means might more most move much must name near need never new next no not note now number
of off often on once one only open or order other our out over own part past people place plain plan
point possible present problem put question quite rather read real reason rest result right round said
same say second see seem set several she short should show side simple since small so some sound start
state step still strong such sum sure take tell ten than that the their them then there these they thing
think this those three through time to today together too total toward true try turn two under until up
upon use value very view want was way we well were what when where which while who why will with word
work would year yes yet you your
"""
VOCABULARY = _VOCABULARY_TEXT.split()


def _phrases(first: int, words: int, opening: bool) -> list[str]:
    """256 fixed phrases of so many words, which differ in all of them."""
    phrases = [
        " ".join(
            VOCABULARY[(place * (7 + 4 * word) + first + 31 * word) % len(VOCABULARY)] for word in range(words)
        )
        for place in range(256)
    ]
    return [f" {phrase.capitalize()}" if opening else f" {phrase}." for phrase in phrases]


_OPENINGS = _phrases(0, 4, opening=True)
_ENDINGS = _phrases(101, 4, opening=False)
_SENTENCE_TOKENS = 10
_LABELS = re.compile(r"one of:?\s*\[?([^\n\].]+)", re.IGNORECASE)
_LABEL_BREAK = re.compile(r"\s*(?:,|;|\||/|\bor\b)\s*")
_GOLD = re.compile(r"\[\[gold:([^\]]+)\]\]")
_UNIT = float(2**64)
_INVERSE_NORMAL = NormalDist().inv_cdf


class Draws:
    """Numbers that depend on a text only: the same text, the same numbers, on every machine."""

    def __init__(self, text: str) -> None:
        self._hash = hashlib.shake_128(text.encode("utf-8", "surrogatepass"))
        self._head = self._hash.digest(128)
        self._next = 0

    @property
    def id(self) -> str:
        """32 hexadecimal digits that stand for the text."""
        return self._head[:16].hex()

    def share(self) -> float:
        """The next number in [0, 1); there are 14 of them, then they begin again."""
        start = 16 + self._next * 8
        self._next = (self._next + 1) % 14
        return int.from_bytes(self._head[start : start + 8]) / _UNIT

    def lognormal(self, median: float, sigma: float) -> float:
        """The next number of a lognormal distribution; the median itself where sigma is 0."""
        if not sigma or not median:
            return median
        return median * math.exp(sigma * _INVERSE_NORMAL(min(max(self.share(), 1e-12), 1 - 1e-12)))

    def numbers(self, count: int) -> Iterator[int]:
        """`count` numbers in [0, 65536)."""
        digest = self._hash.digest(128 + 2 * count)
        return (digest[place] << 8 | digest[place + 1] for place in range(128, 128 + 2 * count, 2))


class Question(Struct, frozen=True):
    """What a style sees: the question's texts, the number of tokens wanted, the settings, the model."""

    system: str
    text: str
    wanted_tokens: int
    settings: Settings
    model: Model


def answer(
    ask: Ask, settings: Settings, tokenizer: Tokenizer, cached_tokens: int = 0, cache_write_tokens: int = 0
) -> ModelAnswer:
    """The answer to a question and its token counts. The caller has checked that the model exists."""
    model = settings.models[ask.model]
    draws = _draws(ask, settings)
    limit = min(ask.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
    reasoning = min(limit, round(draws.lognormal(settings.reasoning_tokens_median, settings.output_tokens_sigma)))
    wanted = max(1, round(draws.lognormal(settings.output_tokens_median, settings.output_tokens_sigma)))
    pieces = _pieces(ask, Question(*_texts(ask), min(wanted, limit), settings, model), draws)
    text = "".join(pieces)
    length = sum(map(tokenizer.count_common, pieces))
    finish = "stop"
    if reasoning + length > limit:
        text, length, finish = tokenizer.cut(text, limit - reasoning), limit - reasoning, "length"
    usage = ModelUsage(
        input_tokens(ask, tokenizer), reasoning + length, cached_tokens, cache_write_tokens, reasoning
    )
    return ModelAnswer(draws.id, text, finish, usage, ask.tool.name if ask.tool else None)  # type: ignore[arg-type]


def alone(ask: Ask, settings: Settings) -> str:
    """The text alone of the answer to a question, whole."""
    model, draws = settings.models[ask.model], _draws(ask, settings)
    draws.lognormal(settings.reasoning_tokens_median, settings.output_tokens_sigma)
    wanted = max(1, round(draws.lognormal(settings.output_tokens_median, settings.output_tokens_sigma)))
    return "".join(_pieces(ask, Question(*_texts(ask), wanted, settings, model), draws))


def wrong(ask: Ask, settings: Settings, text: str) -> str:
    """Another answer than `text`: another of the labels, another number, else other words."""
    schema = ask.tool.schema if ask.tool else ask.schema
    if schema is not None:
        return orjson.dumps(instance(schema, f"wrong {text}")).decode()
    question = Question(*_texts(ask), 1, settings, settings.models[ask.model])
    draws = Draws(f"{settings.seed}\x1fwrong\x1f{text}\x1f{question.text}")
    others = [name for name in labels(question) if name != text]
    said, mark, number = text.rpartition("#### ")
    if mark:
        return f"{said}{mark}{_wrong(number, draws)}"
    return others[int(draws.share() * len(others))] if others else f"Not so: {text}"


def _draws(ask: Ask, settings: Settings) -> Draws:
    texts = (str(settings.seed), ask.model, ask.sampling, ask.definitions, *(text for _, text in ask.messages))
    return Draws("\x1f".join(texts))


def input_tokens(ask: Ask, tokenizer: Tokenizer) -> int:
    """Tokens of the request: its texts, what the chat format adds to them, images, tools and schema."""
    count = tokenizer.count
    total = ask.images * IMAGE_TOKENS + (count(ask.definitions) if ask.definitions else 0)
    if ask.messages[0][0] == "prompt":
        return total + count(ask.messages[0][1])
    for role, text in ask.messages:
        total += MESSAGE_TOKENS + (tokenizer.count_common(text) if role == "system" else count(text))
    return total + REPLY_TOKENS


def _texts(ask: Ask) -> tuple[str, str]:
    system = "\n".join(text for role, text in ask.messages if role == "system")
    return system, ask.messages[-1][1]


def _pieces(ask: Ask, question: Question, draws: Draws) -> list[str]:
    schema = ask.tool.schema if ask.tool else ask.schema
    if schema is None:
        return STYLES[question.settings.answer_style](question, draws)
    text = orjson.dumps(instance(schema, f"{draws.id}{question.text}")).decode()
    if draws.share() >= question.settings.malformed_rate:
        return [text]
    return [text[: len(text) // 2] if draws.share() < 0.5 else '{"unexpected": true}']


def _auto(question: Question, draws: Draws) -> list[str]:
    if labels(question):
        return _label(question, draws)
    if gold(question) is not None:
        return _number(question, draws)
    return _words(question, draws)


def _words(question: Question, draws: Draws) -> list[str]:
    own = question.text[:2000].split()
    pieces: list[str] = []
    for number in draws.numbers(max(1, round(question.wanted_tokens / _SENTENCE_TOKENS))):
        word = own[number % len(own)] if own else ""
        pieces += (_OPENINGS[number >> 8], f" {word}" if word.isalpha() else " it", _ENDINGS[number & 255])
    pieces[0] = pieces[0].lstrip()
    return pieces


def _echo(question: Question, draws: Draws) -> list[str]:
    words = question.text.split() or ["nothing"]
    first = int(draws.share() * len(words))
    part = words[first : first + 12]
    return [" ".join((part * (question.wanted_tokens // len(part) + 1))[: question.wanted_tokens])]


def labels(question: Question) -> list[str]:
    """The labels that the prompt offers after "one of", in its order; the last message wins over the system's."""
    for text in (question.text, question.system):
        found = _LABELS.search(text) if "ne of" in text else None
        if found:
            names = [name.strip(" \"'`*()") for name in _LABEL_BREAK.split(found[1])]
            names = [name for name in names if name and len(name) <= 40]
            if len(names) > 1:
                return names
    return []


def _label(question: Question, draws: Draws) -> list[str]:
    names = labels(question) or ["yes", "no"]
    return [names[int(draws.share() * len(names))]]


def gold(question: Question) -> str | None:
    """The right answer to the question, where it is known: from a marker, or from the settings by the text's hash.

    The text may stand alone, on a line of its own, or after a label such as "Question: ".
    """
    marker = _GOLD.search(question.text) if "[[gold:" in question.text else None
    if marker:
        return marker[1].strip()
    if not question.settings.gold:
        return None
    lines = [question.text, *question.text.splitlines()]
    for text in [*lines, *(line.partition(": ")[2] for line in lines)]:
        known = question.settings.gold.get(hashlib.sha256(text.strip().encode()).hexdigest())
        if known is not None:
            return known
    return None


def _number(question: Question, draws: Draws) -> list[str]:
    right = gold(question) or "0"
    sure = draws.share() < question.model.accuracy
    number = right if sure else _wrong(right, draws)
    *words, last = _words(question, draws)
    return [*words, f"{last}\n#### {number}"]


def _wrong(right: str, draws: Draws) -> str:
    try:
        value = float(right.replace(",", ""))
    except ValueError:
        return f"not {right}"
    step = 1 + int(draws.share() * 9)
    wrong = value + (step if draws.share() < 0.5 else -step)
    return str(int(wrong)) if wrong.is_integer() else str(round(wrong, 6))


STYLES: dict[str, Callable[[Question, Draws], list[str]]] = {
    "auto": _auto,
    "words": _words,
    "echo": _echo,
    "label": _label,
    "number": _number,
}
"""Answer styles by the name that the settings use."""
