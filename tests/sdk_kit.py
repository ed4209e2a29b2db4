"""The official SDKs against a simulator, as strict as they can be."""

from __future__ import annotations

import anthropic
import openai

from crun_batch.simulator import SimulatorProcess

SDK_KEY = "ak_sim_sdk"


def openai_client(simulator: SimulatorProcess) -> openai.OpenAI:
    """The SDK against a simulator: it sends once, and holds each reply against its schema."""
    return openai.OpenAI(
        base_url=simulator.base_url,
        api_key=SDK_KEY,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
        _strict_response_validation=True,
    )


def anthropic_client(simulator: SimulatorProcess) -> anthropic.Anthropic:
    """The same of the other SDK."""
    return anthropic.Anthropic(
        base_url=simulator.base_url.removesuffix("/v1"),
        api_key=SDK_KEY,
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(trust_env=False),
        _strict_response_validation=True,
    )
