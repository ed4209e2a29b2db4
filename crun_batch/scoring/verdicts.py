"""The verdicts that are recorded, read back from the judges' replies: found by what was asked, and of which unit.

A verdict is read from the reply each time, so that other labels or another scale are applied to what is there.
What is held of each is 16 bytes and 8 for each judge.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.records import Reply, Response
from crun_batch.scoring.judge_prompt import read_verdict
from crun_batch.scoring.questions import Questions
from crun_batch.store.directory import RunDirectory
from crun_batch.store.events import recorded_bytes
from crun_batch.store.schema import RunSchema, quoted
from crun_batch.store.views import connect
from crun_batch.workload.target import Judge

if TYPE_CHECKING:
    import polars as pl

_BATCH_ROWS = 4_096


class Verdicts:
    """The recorded verdicts of a run; the first one where several were given to the same question."""

    def __init__(self, keys: array[int], scores: dict[str, array[float]]) -> None:
        self._keys = keys
        self._scores = scores

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, key: int) -> bool:
        """Whether this was asked and answered."""
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key

    def score(self, judge: Judge, key: int) -> float | None:
        """What a recorded verdict says, 0 to 1; None where it cannot be read. Raises KeyError without one."""
        if not self.has(key):
            raise KeyError(key)
        score = self._scores[judge.name][bisect_left(self._keys, key)]
        return None if math.isnan(score) else score


class Record:
    """The recorded verdicts of a run, read when they are first asked for: with a million of them, for a minute."""

    def __init__(
        self, run: RunDirectory, schema: RunSchema, judges: tuple[Judge, ...], questions: Questions
    ) -> None:
        self._read = partial(_recorded, run, schema, judges, questions)
        self._verdicts: Verdicts | None = None

    def verdicts(self) -> Verdicts:
        """As they were when this was first called. Raises RunDamaged."""
        if self._verdicts is None:
            self._verdicts = self._read()
        return self._verdicts

    def forget(self) -> None:
        """More have been recorded since."""
        self._verdicts = None


def _recorded(run: RunDirectory, schema: RunSchema, judges: tuple[Judge, ...], questions: Questions) -> Verdicts:
    """All that the attempts hold, the live ones included. Streams."""
    keys, serials = array("Q"), array("q")
    scores = {judge.name: array("d") for judge in judges}
    if not judges or not run.has_job:
        return Verdicts(keys, scores)
    with connect(run.path) as connection:
        reader = connection.sql(
            f"select serial, request_hash, {quoted(schema.id_name)}::varchar, variant, repeat, reply_body, "
            "reply_base64 from attempts where purpose = 'judge' and outcome = 'done' and error_kind is null"
        ).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            for serial, asked, row_id, variant, repeat, body, coded in zip(
                *map(pa.Array.to_pylist, batch.columns), strict=True
            ):
                keys.append(questions.key(asked, row_id, variant, repeat))
                serials.append(serial)
                for name, score in _scores_of(recorded_bytes(body, coded), judges).items():
                    scores[name].append(score)
    return _sorted(keys, serials, scores)


def _scores_of(body: bytes, judges: tuple[Judge, ...]) -> dict[str, float]:
    """What each of the judges would make of the reply; not a number where that is nothing."""
    texts: dict[str, str | None] = {}
    for protocol in {judge.protocol_name for judge in judges}:
        result = check(PROTOCOLS[protocol], Response(200, {}, body), stream=False)
        texts[protocol] = result.text if isinstance(result, Reply) else None
    found = {judge.name: read_verdict(judge.spec, texts[judge.protocol_name]) for judge in judges}
    return {name: math.nan if score is None else score for name, score in found.items()}


def _sorted(keys: array[int], serials: array[int], scores: dict[str, array[float]]) -> Verdicts:
    import polars as pl  # only where judges have spoken

    columns = {"key": _series(keys, pa.uint64()), "serial": _series(serials, pa.int64())}
    columns |= {f"score {name}": _series(values, pa.float64()) for name, values in scores.items()}
    frame = pl.DataFrame(columns).sort("key", "serial").unique("key", keep="first", maintain_order=True)
    ordered = {name: _array(frame[f"score {name}"], "d") for name in scores}
    return Verdicts(_array(frame["key"], "Q"), ordered)


def _series(values: array[int] | array[float], kind: pa.DataType) -> pl.Series:
    import polars as pl

    return pl.Series(pl.from_arrow(pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])))


def _array(series: pl.Series, code: str) -> array:  # type: ignore[type-arg]
    found = array(code)
    found.frombytes(series.rechunk().to_arrow().buffers()[1].to_pybytes()[: len(series) * found.itemsize])
    return found
