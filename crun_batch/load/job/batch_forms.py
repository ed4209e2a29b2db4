"""In which form a gateway takes batches: as the job says, else by its address and by how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

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
    if _host(base_url) == OPENROUTER_HOST:
        return "openrouter"
    return "anthropic" if protocol == "messages" else "openai"


def _host(base_url: object) -> str | None:
    try:
        return urlsplit(base_url).hostname if isinstance(base_url, str) else None
    except ValueError:  # told where the address is checked
        return None
