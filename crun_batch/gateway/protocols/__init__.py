"""The protocols: neutral messages to request bytes, reply bytes to `Reply`. One module each, all pure."""

from __future__ import annotations

from crun_batch.gateway.protocols import chat, completions, messages, responses
from crun_batch.gateway.protocols.protocol import Assembled, Protocol
from crun_batch.records import ProtocolName

PROTOCOLS: dict[ProtocolName, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (chat, responses, messages, completions)
}

__all__ = ["PROTOCOLS", "Assembled", "Protocol"]
