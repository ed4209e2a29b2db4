"""The actor of a Ray cluster that runs one shard, by what it is leased.

Ray starts it where there is room. Its rows and its money are in the shard's run directory: where it dies, another
goes on with that. Ray asks nothing a second time; this asks the giver again itself.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from msgspec import structs

from crun_batch.errors import CrunBatchError
from crun_batch.options import Shard
from crun_batch.scale.coordinated import run_carried
from crun_batch.scale.exchange import FromShard, ToShard, Unanswered, decode_told
from crun_batch.scale.messages import decode_order, encode
from crun_batch.scale.orders import options_of_order
from crun_batch.scale.remote import Carry

ANSWERED_WITHIN_SECONDS = 3.0
NAMESPACE = "crun-batch"


class ShardWorker:
    """One for each shard, for one run of it."""

    def __init__(self, giver: Any, name: str, folder: str) -> None:
        """`giver`, `name`: who gives leases."""
        os.chdir(folder)
        self._name = name
        self._giver = giver
        self._exit_code: int | None = None

    def run(self, order: bytes) -> int:
        """Run the shard to its end; its exit code. What went wrong the giver is told."""
        from crun_batch.session.runtime import run_to_end

        told = decode_order.decode(order)
        options = structs.replace(options_of_order(told), shard=Shard(*told.shard))
        try:
            summary = run_to_end(run_carried(told.job, carried_by(self._giver, self._name), options))
        except CrunBatchError as error:
            self._exit_code = error.exit_code
        else:
            self._exit_code = int(summary["exit_code"] or 0)
        return self._exit_code

    def ended(self) -> int | None:
        """Its exit code, when `run` is over: the calls of an actor wait for each other."""
        return self._exit_code


def carried_by(giver: Any, name: str) -> Carry:
    """What carries documents to the giver, and where that is dead for good, to the one that has its name then.

    No method: with one of this kind an actor runs on a loop of Ray's.
    """
    import ray

    async def carry(said: FromShard) -> ToShard:
        nonlocal giver
        try:
            reply = await asyncio.wait_for(giver.exchange.remote(encode(said)), ANSWERED_WITHIN_SECONDS)
        except Exception as error:  # noqa: BLE001 - a giver that is dead, or starting, or slow
            if isinstance(error, ray.exceptions.ActorDiedError):
                with suppress(ValueError):
                    giver = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
            raise Unanswered(f"the giver of leases does not answer ({type(error).__name__})") from None
        return decode_told.decode(reply)

    return carry
