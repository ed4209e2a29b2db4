"""Identical requests of one variant and repeat: the first is sent, the others are given its answer.

Owns which unit leads and which follow, and the answers that later rows may still ask for. Never across variants
or repeats: those are asked to see how answers differ. A unit that has been tried before leads itself.

Bounded: answers of at most MOST_BYTES are remembered (about half a million short ones), the oldest go first; a
request identical to a forgotten one is sent again. At most about MOST_WAITING units wait for an answer that is
on its way; the source pauses until there are fewer. Errors are shared with those who wait, and within the
session; a later session asks anew. Nothing is sent or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct, structs

from crun_batch.records import Row, Unit
from crun_batch.store.directory import RunDirectory
from crun_batch.store.events import FinalPart
from crun_batch.store.schema import constant
from crun_batch.store.views import current_finals, run_schema, snapshot
from crun_batch.workload.workload import Workload

MOST_BYTES = 256 * 2**20
MOST_WAITING = 10_000
ENTRY_BYTES = 200
"""What remembering an answer costs beside its own bytes."""
_SHARED = (
    "status",
    "error_kind",
    "error_message",
    "output_text",
    "outputs",
    "tool_calls",
    "finish_reason",
    "model",
    "response_id",
    "cost_source",
    "request_hash",
)
_COSTS = ("cost_usd", "cost_credits")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FinalPart).decode


class Follower(Struct, frozen=True):
    """A unit that waits for another's answer."""

    unit: Unit
    row: Row
    replaces: str | None


class Sharing:
    """Who sends and who follows, for one session."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, list[Follower]] = {}
        self._waiting_units = 0

    @property
    def is_full(self) -> bool:
        """Whether so many units wait that no more should come."""
        return self._waiting_units >= MOST_WAITING

    def lead(self, unit: Unit, unit_hash: str) -> None:
        """The unit is sent, whatever others do; those who ask the same wait for it."""
        self._waiting.setdefault(_key(unit, unit_hash), [])

    def ask(self, follower: Follower, unit_hash: str) -> FinalPart | bool | None:
        """True: send it, it leads. A part: its answer. None: the answer is on its way, and will be given."""
        key = _key(follower.unit, unit_hash)
        answer = self._answers.get(key)
        if answer is not None:
            return shared_part(_decode(answer))
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            return True
        waiting.append(follower)
        self._waiting_units += 1
        return None

    def answered(self, unit: Unit, part: FinalPart) -> list[Follower]:
        """Remember a unit's whole result; returns those who waited for it."""
        if part.request_hash is None:
            return []
        key = _key(unit, part.request_hash)
        followers = self._waiting.pop(key, [])
        self._waiting_units -= len(followers)
        self.remember(unit, part)
        return followers

    def drop(self, variant: int) -> None:
        """Nobody leads in this variant any more: those who wait there stay without an answer."""
        for key in [key for key in self._waiting if key.startswith(b"%d/" % variant)]:
            self._waiting_units -= len(self._waiting.pop(key))

    def remember(self, unit: Unit, part: FinalPart) -> None:
        """Keep an answer for rows to come; the oldest are forgotten."""
        assert part.request_hash is not None
        key = _key(unit, part.request_hash)
        answer = _encode(structs.replace(part, carried=None))
        self._bytes += len(answer) + ENTRY_BYTES - self._forget(key)
        self._answers[key] = answer
        while self._bytes > self._most_bytes:
            self._bytes -= self._forget(next(iter(self._answers)))

    def _forget(self, key: bytes) -> int:
        answer = self._answers.pop(key, None)
        return 0 if answer is None else len(answer) + ENTRY_BYTES


def shared_part(part: FinalPart) -> FinalPart:
    """A result for a unit that was given another's answer: it asked nothing and cost nothing."""
    return structs.replace(
        part,
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        cost_usd=None if part.cost_usd is None else 0,
        cost_credits=None if part.cost_credits is None else 0,
        attempt_count=0,
        unknown_attempts=0,
        latency_us=None,
        started_at=None,
        finished_at=None,
        supersedes=False,
        replaces=None,
    )


def recorded_answers(
    path: Path, workload: Workload, output_of: Callable[[int, str | None], str | None], reopened: frozenset[str]
) -> Iterator[tuple[Unit, FinalPart]]:
    """The answers that earlier sessions recorded, in their order; without errors and without reopened statuses.

    `output_of` gives (variant, text) -> the value of the column `output`. Streams.
    """
    variants = {variant.name: variant.index for variant in workload.variants}
    run = RunDirectory(path)
    columns = ["variant", "repeat", "attempt_count", *_COSTS, *_SHARED]
    for table in current_finals(snapshot(run, run_schema(run)), columns):
        answers = _asked_answers(table, frozenset({"error", *reopened}))
        cells = (column.to_pylist() for column in answers.columns)
        for row in zip(*cells, strict=True):
            values = dict(zip(answers.column_names, row, strict=True))
            variant, repeat = variants.get(values.pop("variant")), values.pop("repeat")
            if variant is not None and repeat < workload.repeats:
                text = values.pop("output_text")
                known = {name: 0 if values[name] else None for name in _COSTS}
                part = FinalPart(**{**values, **known, "text": text, "output": output_of(variant, text)})
                yield Unit(-1, "", variant, repeat), part


def _asked_answers(finals: pa.Table, left_out: frozenset[str]) -> pa.Table:
    """Those that came of a request, without these statuses; of a cost whether it is known."""
    asked = pc.and_(
        pc.is_valid(finals.column("request_hash")),
        pc.greater(finals.column("attempt_count"), constant(0, pa.int32())),
    )
    for status in left_out:
        asked = pc.and_(asked, pc.not_equal(finals.column("status"), constant(status, pa.string())))
    answers = finals.filter(asked).drop_columns(["attempt_count"])
    for name in _COSTS:
        index = answers.schema.get_field_index(name)
        answers = answers.set_column(index, name, answers.column(name).is_valid())
    return answers


def _key(unit: Unit, unit_hash: str) -> bytes:
    return b"%d/%d/%b" % (unit.variant, unit.repeat, bytes.fromhex(unit_hash))
