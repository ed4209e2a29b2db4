"""How a job asks providers to keep the beginning of its prompts: keys that route, markers that say where it ends.

Owns what `prompt.cache` puts into a request. None of it changes the answer, so none of it is part of the request's
hash: a run may switch it on, off, or spread it otherwise between sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.load.job.job import Job

KEYED = ("chat", "responses")
"""Protocols with the field `prompt_cache_key` (OpenAI's API reference)."""
REQUESTS_PER_KEY_AND_MINUTE = 15
"""Above about so many, OpenAI sends requests of one prefix and key to other machines, which have not cached it
(prompt caching guide)."""
MARKER: Mapping[str, Any] = {"type": "ephemeral"}
"""Anthropic's `cache_control` with its default of five minutes (prompt caching)."""
MARKED_MODELS = "claude"
"""By chat, markers are for these (OpenRouter's prompt caching page); by messages always."""


class CacheHints(Struct, frozen=True):
    """What the requests of one variant carry."""

    key: str | None
    """What their `prompt_cache_key` begins with; None: they have none."""
    keys: int
    """How many keys there are, so that each is asked for no more often than its machine bears."""
    marked: int | None
    """Behind how many messages the marker stands; None: there is none."""

    def number(self, position: int) -> int:
        """Which of the keys a row has."""
        return position % self.keys

    def with_key(self, body: bytes, position: int) -> bytes:
        """The body with its key."""
        if self.key is None:
            return body
        return body[:-1] + b',"prompt_cache_key":' + orjson.dumps(f"{self.key}-{self.number(position)}") + b"}"

    def marking(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages with the marker at the end of those that all rows share."""
        marked = list(messages)
        if self.marked:
            last = marked[self.marked - 1]
            content = last["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
            parts[-1] = {**parts[-1], "cache_control": MARKER}
            marked[self.marked - 1] = {**last, "content": parts}
        return marked


def hints_of(job: Job, shared_messages: int) -> CacheHints | None:
    """What `prompt.cache` of the job asks for; None: nothing. `shared_messages`: how many all rows begin with."""
    said = job.prompt.cache
    if said == "off" or job.prompt.body_column is not None:
        return None
    protocol, model = job.endpoint.protocol, (job.model or "").lower()
    marks = shared_messages > 0 and (protocol == "messages" or (protocol == "chat" and MARKED_MODELS in model))
    key = None
    if protocol in KEYED and "prompt_cache_key" not in job.params:
        key = f"crun-{job.request_fingerprint()[:12]}" if said == "auto" else said
    if key is None and not marks:
        return None
    return CacheHints(key, keys_needed(job) if key is not None else 1, shared_messages if marks else None)


def keys_needed(job: Job) -> int:
    """So many that each stays under REQUESTS_PER_KEY_AND_MINUTE; without a limit one for each place in flight."""
    limits = job.limits
    most = limits.concurrency
    if limits.requests_per_minute is None:
        return most
    return max(1, min(most, -(-limits.requests_per_minute // REQUESTS_PER_KEY_AND_MINUTE)))
