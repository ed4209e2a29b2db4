"""What a worker's process and the one that started it say to each other: a line of JSON for each message.

To the worker: first its order, then grants, waves and at last an end. From it: reports, progress, sentences, and
how it ended. No key is in any of them: a worker finds those where its parent finds them, in the environment.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.console.progress import Progress
from crun_batch.load.deadline import Deadline
from crun_batch.load.job.output_schema import schema_of_class
from crun_batch.load.job.places import Argument
from crun_batch.scale.leases import Grant, WorkerReport
from crun_batch.session.metrics import Figures


class Order(Struct, frozen=True, tag="order"):
    """What a worker is to do: a job file, one shard of its rows, how it is run."""

    job: str
    shard: tuple[int, int]
    overrides: dict[str, Any]
    """As texts of --set are read."""
    arguments: dict[str, Argument] = {}
    """Likewise dotted keys of the job, with values that are taken as they are."""
    allow_paths: tuple[str, ...] = ()
    simulators_at: tuple[str, ...] = ()
    """Addresses of the simulators that all workers send to, one for each endpoint; none: it is for real."""
    deadline: Deadline | None = None
    """Of who gives the leases; workers are told to stop."""
    otel: bool = False
    """Whether it exports its own figures by OpenTelemetry."""
    figures: bool = False
    """Whether somebody wants to be told its figures."""
    version: str = ""
    """Of crun-batch, where it was made."""


class Granted(Struct, frozen=True, tag="granted"):
    """The answer to a report."""

    grant: Grant


class Wave(Struct, frozen=True, tag="wave"):
    """Another worker met a wave of refusals: until when each lane pauses."""

    until: dict[str, float]


class Stop(Struct, frozen=True, tag="stop"):
    """Nothing new is to be sent; what is in flight is waited for."""

    exit_code: int
    reason: str


class Reported(Struct, frozen=True, tag="reported"):
    """What the worker uses now; it waits for a grant."""

    report: WorkerReport


class Progressed(Struct, frozen=True, tag="moved"):
    """How far its shard is."""

    progress: Progress


class Figured(Struct, frozen=True, tag="figured"):
    """Its figures, about once a second."""

    figures: Figures


class Sentence(Struct, frozen=True, tag="said"):
    """A sentence for whoever watches."""

    sentence: str


class Ended(Struct, frozen=True, tag="ended"):
    """The summary of its shard, as written."""

    summary: dict[str, Any]


class Failed(Struct, frozen=True, tag="failed"):
    """Why it could not go on."""

    exit_code: int
    message: str
    advice: str = ""


ToWorker = Granted | Wave | Stop
FromWorker = Reported | Progressed | Figured | Sentence | Ended | Failed


def _plain(value: object) -> object:
    """A path, and a class that is a schema, as a job file has them. Raises TypeError for what no job has."""
    if isinstance(value, type):
        return schema_of_class(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no place in a job")


encode = msgspec.json.Encoder(decimal_format="string", enc_hook=_plain).encode
decode_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
decode_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
decode_order: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def line(message: Struct) -> bytes:
    """The message as it goes over a pipe."""
    return encode(message) + b"\n"
