"""In which form a gateway takes batches: as the job says, else by its address and by how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from crun_batch.load.job.addresses import host_of

BatchFormName = Literal["openai", "anthropic", "openrouter"]
PROTOCOLS_OF: Mapping[BatchFormName, tuple[str, ...]] = {
    "openai": ("chat", "responses", "completions"),
    "anthropic": ("messages",),
    "openrouter": ("chat", "responses", "messages"),
}
"""Form -> how the requests in it may be asked."""
OPENROUTER_HOST = "openrouter.ai"


def batch_form(written: object, protocol: object, base_url: object) -> BatchFormName:
    """`batch.form`, or what is taken where it is not written, or auto."""
    if written in ("openai", "anthropic", "openrouter"):
        return written
    if host_of(base_url) == OPENROUTER_HOST:
        return "openrouter"
    return "anthropic" if protocol == "messages" else "openai"
