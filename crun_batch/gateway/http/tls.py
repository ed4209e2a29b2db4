"""TLS between a connection and its HTTP: what goes out is sealed, what comes in is opened. No I/O.

One session's keys serve the next connection to the same origin (a handshake then costs a fraction), so a
`TlsChannel` also gives its session back. Which certificates are trusted is the context's matter (`trust`).
"""

from __future__ import annotations

import ssl

from crun_batch.gateway.failures import message_line

RECORD_BYTES = 16_384
"""The most that one TLS record holds: reading so much takes all of it."""

_NOT_TRUSTED = "is not trusted ({reason}): set SSL_CERT_FILE or endpoint.ca_file to its CA's certificate"
CERTIFICATES = {
    9: "is not valid yet: look at this machine's clock",
    10: "has expired",
    18: _NOT_TRUSTED,
    19: _NOT_TRUSTED,
    20: _NOT_TRUSTED,
    21: _NOT_TRUSTED,
    62: "is for another name",
    64: "is for another address",
}
"""OpenSSL's X509_V_ERR number -> what is said of the certificate."""
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons where what came is no TLS at all."""
NO_TLS_THERE = "does not speak TLS: write http://, or another port"


class TlsChannel:
    """One side of a TLS connection, on memory alone."""

    __slots__ = ("_incoming", "_object", "_outgoing", "is_ended", "trouble")

    def __init__(self, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host, session=session)
        self.is_ended = False
        """The other side has said that nothing more will come: what came until then is whole."""
        self.trouble: str | None = None
        """Why nothing that comes later can be opened."""

    @property
    def session(self) -> ssl.SSLSession | None:
        """For the next connection to the same origin; a server gives one with its first reply at the latest."""
        return self._object.session

    @property
    def goes_on(self) -> bool:
        """Whether the server took the session that it was shown."""
        return self._object.session_reused is True

    def shake(self) -> bool:
        """One step of the handshake; True: it is over. Send `to_send` after each, a failed one included.

        Raises ssl.SSLError where it fails.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self, data: bytes) -> None:
        """Sealed bytes of the handshake that came; none at all: the end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def to_send(self) -> bytes:
        """What TLS itself wants to say: its handshake, its answers to the other side's."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def seal(self, data: bytes) -> bytes:
        """These bytes as they go out."""
        sent = self._object.write(data)
        if sent < len(data):
            rest = memoryview(data)
            while sent < len(data):
                sent += self._object.write(rest[sent : sent + RECORD_BYTES])
        return self._outgoing.read()

    def open(self, data: bytes) -> bytes:
        """What these bytes hold; none where a record is not whole yet, or is TLS's own. See `trouble`."""
        incoming, read = self._incoming, self._object.read
        incoming.write(data)
        parts: list[bytes] = []
        try:
            while True:
                part = read(RECORD_BYTES)
                if not part:
                    self.is_ended = True
                    break
                parts.append(part)
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.trouble = f"TLS: {message_line((error.reason or 'broken').lower().replace('_', ' '))}"
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Nested:
    """TLS within TLS: to the gateway within that to an https proxy. Used as a `TlsChannel`."""

    def __init__(self, outer: TlsChannel, inner: TlsChannel) -> None:
        self._outer, self._inner = outer, inner

    @property
    def is_ended(self) -> bool:
        return self._inner.is_ended

    @property
    def trouble(self) -> str | None:
        return self._inner.trouble or self._outer.trouble

    @property
    def session(self) -> ssl.SSLSession | None:
        return self._inner.session

    @property
    def goes_on(self) -> bool:
        return self._inner.goes_on

    def to_send(self) -> bytes:
        inner = self._inner.to_send()
        return (self._outer.seal(inner) if inner else b"") + self._outer.to_send()

    def seal(self, data: bytes) -> bytes:
        return self._outer.seal(self._inner.seal(data))

    def open(self, data: bytes) -> bytes:
        opened = self._outer.open(data)
        return self._inner.open(opened) if opened else b""


def words_of(error: ssl.SSLError | ssl.CertificateError, place: str, name: str) -> tuple[str, bool]:
    """Why a handshake with `name` failed, and whether that will stay so until somebody changes something."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = message_line(error.verify_message)
        what = CERTIFICATES.get(error.verify_code, f"is not accepted ({reason})").format(reason=reason)
        return f"the certificate of {name} {what}", True
    reason = error.reason or type(error).__name__
    if reason in NO_TLS:
        return f"{place} {NO_TLS_THERE}", True
    if isinstance(error, ssl.SSLEOFError) or "EOF" in reason:
        return f"{place} closed the connection during the TLS handshake", False
    return f"{place} and this machine find no common TLS ({reason.lower().replace('_', ' ')})", False
