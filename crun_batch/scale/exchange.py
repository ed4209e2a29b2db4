"""What a worker and a coordinator say to each other, each time the worker speaks: a document there, one back.

The same messages go through the pipes of `run --workers`. Nothing here tells how the documents travel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from crun_batch.errors import CrunBatchError
from crun_batch.load.job.job import Job
from crun_batch.scale.messages import FromWorker, ToWorker

TOKEN_NAME = "CRUN_BATCH_COORDINATOR_TOKEN"
"""The environment variable that both find the token in."""
ASKS_ALIKE = (
    *("name", "model", "prompt", "params", "output_schema", "repair_attempts"),
    *("sweep", "repeats", "share_identical", "pack"),
)
"""Keys of the job in which the shards of one job are the same."""
VERSION = "version"
INSTALL_THE_SAME = "install the same on both"


class FromShard(Struct, frozen=True):
    """What a worker says."""

    shard: tuple[int, int]
    """Its number from 1, of how many."""
    owner: str
    """Its name in its run directory's lock; empty as long as it has none."""
    sequence: int
    """Counts up with each document of this process: an older one that comes late is passed over."""
    asks: dict[str, str]
    """A digest for each of ASKS_ALIKE, and the worker's version."""
    messages: list[FromWorker]


class ToShard(Struct, frozen=True):
    """What it is answered."""

    keeper: str
    """Who answers: another keeper has another clock."""
    messages: list[ToWorker]


class Unanswered(CrunBatchError):
    """Nobody was there, or not in time. What was said may have been heard."""


decode_said: msgspec.json.Decoder[FromShard] = msgspec.json.Decoder(FromShard)
decode_told: msgspec.json.Decoder[ToShard] = msgspec.json.Decoder(ToShard)


def digests(job: Job) -> dict[str, str]:
    """What must be the same for all workers of a job, told briefly and without saying it; and our version."""
    tree: Mapping[str, Any] = job.public_dict()
    return {VERSION: version("crun-batch"), **{key: _digest(tree.get(key)) for key in ASKS_ALIKE}}


def why_not_alike(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Why a worker `there` is none of the coordinator's `here`; None: it is. Versions may mean other things."""
    ours, other = here.get(VERSION), there.get(VERSION)
    if ours not in (None, other):
        return f"the coordinator is crun-batch {ours}, this worker {other or 'an older one'}: {INSTALL_THE_SAME}"
    others = [key for key, digest in here.items() if there.get(key) != digest]
    if not others:
        return None
    return f"the coordinator's job and this worker's differ in {', '.join(others)}: give both the same"


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
