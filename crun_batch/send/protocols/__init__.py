"""The protocols: neutral messages to request bytes, reply bytes to `Reply`. One module each, all pure."""

from __future__ import annotations

from crun_batch.records import ProtocolName
from crun_batch.send.protocols import chat, completions, messages, responses
from crun_batch.send.protocols.protocol import Assembled, Protocol

PROTOCOLS: dict[ProtocolName, Protocol] = {
    module.PROTOCOL.name: module.PROTOCOL for module in (chat, responses, messages, completions)
}

__all__ = ["PROTOCOLS", "Assembled", "Protocol"]
