"""The one job of every test of the batch lane, in each form in which gateways take batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PRICE = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}


class FormCase(NamedTuple):
    """How a job is written that goes in this form, and which style of simulator takes it."""

    gateway_style: str
    protocol: str
    written: str
    """`batch.form`."""


FORMS: Mapping[str, FormCase] = {
    "openai": FormCase("plain", "chat", "auto"),
    "anthropic": FormCase("plain", "messages", "auto"),
    "openrouter": FormCase("openrouter", "chat", "openrouter"),
}


def batch_job(
    base_url: str, key_variable: str, folder: str, *, form: str = "openai", **keys: Any
) -> dict[str, Any]:
    """The job file, at half the simulator's own prices; `keys` replace, or extend `endpoint` and `batch`."""
    case = FORMS[form]
    endpoint = {"base_url": base_url, "api_key_env": key_variable, "protocol": case.protocol}
    return {
        "name": "batched",
        "lane": "batch",
        "input": {"id": "id"},
        "model": "gpt-5.4",
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 300},
        "prices": {"models": {"gpt-5.4": PRICE}, "batch_share": 0.5, "credits_per_usd": 200},
        "output": {"dir": folder},
        **keys,
        "endpoint": {**endpoint, **keys.get("endpoint", {})},
        "batch": {"look_every_seconds": 0.05, "form": case.written, **keys.get("batch", {})},
    }
