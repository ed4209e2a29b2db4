"""What a request asks for whose bill no byte of it bounds: what its gateway keeps, searches, runs, or says aloud.

Sources: the API references of OpenAI (tools of chat and responses, `modalities`, `web_search_options`), Anthropic
(server tools, `mcp_servers`), xAI (`search_parameters`), OpenRouter (`plugins`), Alibaba (`enable_search`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

STORED_INPUTS = ("previous_response_id", "conversation", "prompt")
"""Fields of /responses that name what the gateway keeps: it is billed as input."""

CLIENT_TOOLS = ("function", "custom", "local_shell", "apply_patch", "computer", "bash", "text_editor", "memory")
"""What the types of tools begin with that run where the request is from. All others run at the gateway."""


def _has_hosted_tool(tools: object) -> bool:
    kinds = [tool.get("type", "function") for tool in _items(tools) if isinstance(tool, Mapping)]
    return any(isinstance(kind, str) and not kind.startswith(CLIENT_TOOLS) for kind in kinds)


def _is_more_than_text(modalities: object) -> bool:
    return any(one != "text" for one in _items(modalities))


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


HOSTED_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "tools": _has_hosted_tool,
    "modalities": _is_more_than_text,
    "web_search_options": lambda options: options is not None,
    **dict.fromkeys(("search_parameters", "plugins", "mcp_servers", "enable_search"), bool),
}
"""Field -> whether a value of it asks for such a thing."""
