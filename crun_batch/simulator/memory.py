"""What the gateway remembers of earlier requests: attempts of each, prefixes in the cache, stored replies."""

from __future__ import annotations

import hashlib

Messages = tuple[tuple[str, str], ...]


class Memory:
    """Three small memories; nothing is kept that no setting asks for."""

    def __init__(self) -> None:
        self._attempts: dict[bytes, int] = {}
        self._prefixes: set[bytes] = set()
        self._stored: dict[str, Messages] = {}

    def next_attempt(self, request: bytes) -> int:
        """The number, from 0, of this attempt of the request with that digest."""
        attempt = self._attempts.get(request, 0)
        self._attempts[request] = attempt + 1
        return attempt

    def seen_prefix(self, model: str, text: str) -> bool:
        """Whether this model has read this text before; from now on it has."""
        digest = hashlib.sha256(f"{model}\x1f{text}".encode()).digest()
        if digest in self._prefixes:
            return True
        self._prefixes.add(digest)
        return False

    def store(self, response_id: str, messages: Messages, most: int) -> None:
        """Keep a conversation under its last reply's id; the oldest ones go when there are more than `most`."""
        self._stored.pop(response_id, None)
        self._stored[response_id] = messages
        while len(self._stored) > most:
            del self._stored[next(iter(self._stored))]

    def recall(self, response_id: str) -> Messages | None:
        """The conversation up to and with that reply, if it is still kept."""
        return self._stored.get(response_id)
