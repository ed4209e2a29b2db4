"""Documents between a worker and its coordinator over HTTP. No proxy of the environment is on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import msgspec

from crun_batch.errors import InputError, Mistake
from crun_batch.gateway.http.trust import client_context
from crun_batch.scale.exchange import TOKEN_NAME, FromShard, ToShard, Unanswered, decode_told
from crun_batch.scale.messages import encode
from crun_batch.scale.remote import Carry

ANSWERED_WITHIN_SECONDS = 3.0
"""Less than a lease: who is not answered has time to ask again."""


def checked_address(url: str) -> str:
    """The address without a slash at its end. Raises InputError for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(Mistake(f"--coordinator takes an address such as http://10.0.0.7:8400, not {url!r}"))
    if parts.username or parts.password:
        raise InputError(
            Mistake(f"--coordinator takes no password in its address: put the token into {TOKEN_NAME}")
        )
    return url.rstrip("/")


@asynccontextmanager
async def carried_to(url: str, environ: Mapping[str, str]) -> AsyncIterator[Carry]:
    """What carries documents to the coordinator at an address, with the token of the environment."""
    token = environ.get(TOKEN_NAME)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    async with httpx.AsyncClient(
        headers=headers, verify=client_context((), environ), trust_env=False, timeout=ANSWERED_WITHIN_SECONDS
    ) as client:

        async def carry(said: FromShard) -> ToShard:
            try:
                reply = await client.post(f"{url}/exchange", content=encode(said))
            except httpx.HTTPError as error:
                raise Unanswered(f"the coordinator at {url} does not answer ({_why(error)})") from None
            if reply.status_code >= 500:
                raise Unanswered(f"the coordinator at {url} says {reply.status_code}: {reply.text[:300].strip()}")
            if reply.status_code != 200:
                raise InputError(f"the coordinator at {url} refuses this worker: {reply.text[:300].strip()}")
            try:
                return decode_told.decode(reply.content)
            except msgspec.MsgspecError:
                raise InputError(f"what answers at {url} is no coordinator") from None

        yield carry


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
