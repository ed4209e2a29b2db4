"""The four generating endpoints, one module each: their JSON in, their JSON or events out."""

from __future__ import annotations

from crun_batch.simulator.endpoints import chat, completions, messages, responses

ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (chat.ENDPOINT, responses.ENDPOINT, messages.ENDPOINT, completions.ENDPOINT)
}
"""Every generating endpoint by its path under the base URL."""
