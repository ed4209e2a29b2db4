"""How the gateway is reached: whom https trusts, which proxy is taken, what is said where neither works."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from fault_server import HOST, FaultServer, ProxyServer, refusing_url
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.gateway.control import ControlClient, ControlFault, list_models
from crun_batch.gateway.http import trust
from crun_batch.gateway.http.addresses import Origin, target_of
from crun_batch.gateway.http.heads import RefusedHead, repaired
from crun_batch.gateway.http.proxies import is_excluded, parsed_proxy, proxy_for
from crun_batch.gateway.http.wire import Wire, open_wire
from crun_batch.records import Fault, Response
from crun_batch.session.watching import seconds_with_sleep, tell_standstill

SECRET = "pass-W0rd-9876543210"
HEADERS = {"authorization": "Bearer ak_0123456789abcdef"}
BODY = b"{}"


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def trusted(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's CA, named by SSL_CERT_FILE."""
    path = server.write_ca(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def post(url: str, *, times: int = 1, **options: Any) -> Response | Fault:
    """The last of some requests, one after the other."""

    async def main() -> Response | Fault:
        wire = open_wire(connections=4, urls=[url], **{"connect_timeout_seconds": 5.0} | options)
        for _ in range(times - 1):
            await wire.post(url, HEADERS, BODY, 5.0)
        result = await wire.post(url, HEADERS, BODY, 5.0)
        await wire.close()
        return result

    return asyncio.run(main())


def listed(url: str, **options: Any) -> Any:
    async def main() -> Any:
        async with ControlClient(url, HEADERS, attempts=1, **options) as gateway:
            return await list_models(gateway)

    return asyncio.run(main())


# Whom https trusts


def test_the_variable_names_whom_to_trust(server: FaultServer, trusted: Path) -> None:
    assert isinstance(post(server.url("whole", "https")), Response)


def test_a_certificate_that_nobody_vouches_for_is_named_with_what_to_set(server: FaultServer) -> None:
    """The request was not sent, and trying again changes nothing."""
    posts = server.posts["whole"]
    fault = post(server.url("whole", "https"))
    assert isinstance(fault, Fault)
    assert ("not_sent", True) == (fault.stage, fault.is_lasting)
    assert "the certificate of 127.0.0.1 is not trusted" in fault.message
    assert "SSL_CERT_FILE or endpoint.ca_file" in fault.message
    assert posts == server.posts["whole"]


def test_a_jobs_ca_is_trusted_where_it_is_named_and_nowhere_else(server: FaultServer, tmp_path: Path) -> None:
    """endpoint.ca_file of one gateway does not vouch for another."""
    ca_file = server.write_ca(tmp_path / "ca.pem")
    url = server.url("whole", "https")
    assert isinstance(post(url, ca_files={url: ca_file}), Response)
    assert isinstance(post(url, ca_files={"https://other.example/v1": ca_file}), Fault)


def test_control_calls_trust_whom_paid_requests_trust(server: FaultServer, tmp_path: Path) -> None:
    """A CA that one of them knows, both know."""
    url, ca_file = server.url("whole", "https"), server.write_ca(tmp_path / "ca.pem")
    refused = listed(url)
    assert isinstance(refused, ControlFault)
    assert "is not trusted" in refused.message
    answered = listed(url, ca_file=ca_file)
    assert isinstance(answered, ControlFault)
    assert "shape" in answered.message


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "endpoint.ca_file"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_cannot_be_read_are_the_users_mistake(
    variable: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, and the variable or the key is named, with the file."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    url = "https://gateway.example/v1"
    ca_files = {url: path}
    if variable == "SSL_CERT_FILE":
        monkeypatch.setenv(variable, str(path))
        ca_files = {}
    with pytest.raises(InputError, match=rf"{variable}: .*ca\.pem"):
        open_wire(connections=1, urls=[url], ca_files=ca_files)
    open_wire(connections=1, urls=["http://gateway.example/v1"], ca_files=ca_files)


def test_a_folder_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    with pytest.raises(InputError, match=r"SSL_CERT_DIR: /nonexistent"):
        open_wire(connections=1, urls=["https://gateway.example/v1"])


def test_a_system_without_certificates_takes_certifis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slim container: the public CAs all the same."""
    monkeypatch.setattr(trust, "BUNDLES", ())
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda self: None)
    monkeypatch.setattr(trust, "_has_certificates", lambda folder: False)
    trust._context.cache_clear()
    try:
        assert trust.client_context().cert_store_stats()["x509_ca"] > 50
    finally:
        trust._context.cache_clear()


def test_one_context_serves_all_that_trust_the_same() -> None:
    assert trust.client_context() is trust.client_context()


def test_the_next_connection_goes_on_with_the_keys_of_the_last(server: FaultServer, trusted: Path) -> None:
    """A session is used again: a server that closes after each reply costs one full handshake, not one each."""
    reused = server.reused_sessions
    post(server.url("until_closed", "https"), times=5)
    assert server.reused_sessions - reused >= 4


def test_plain_http_to_a_port_that_speaks_tls_says_so(server: FaultServer) -> None:
    """A TLS alert is a whole answer of whoever did not read the request: nothing of it can be billed."""
    with socketserver.TCPServer(("127.0.0.1", 0), AlertingHandler) as alerting:
        threading.Thread(target=alerting.handle_request, daemon=True).start()
        fault = post(f"http://127.0.0.1:{alerting.server_address[1]}/v1")
    assert isinstance(fault, Fault)
    assert fault.is_lasting
    assert "https://" in fault.message


class AlertingHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"\x15\x03\x01\x00\x02\x02\x46")


def test_tls_to_a_port_that_speaks_plain_http_says_so(server: FaultServer) -> None:
    url = server.url("garbage_at_once").replace("http://", "https://")
    fault = post(url)
    assert isinstance(fault, Fault)
    assert ("not_sent", True) == (fault.stage, fault.is_lasting)
    assert "does not speak TLS" in fault.message


def test_nobody_answers_at_the_port_of_an_https_gateway() -> None:
    with refusing_url() as url:
        place = url.removeprefix("http://").partition("/")[0]
        fault = post(url.replace("http://", "https://"))
    assert isinstance(fault, Fault)
    words = f"no connection to {place}: Connection refused"
    assert ("not_sent", False, words) == (fault.stage, fault.is_lasting, fault.message)


# Which proxy is taken


def proxied(environ: dict[str, str], url: str) -> tuple[str, int] | None:
    found = proxy_for(target_of(url).origin, environ)
    return None if found is None else (found.scheme, found.port)


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "https://a.example/", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/", ("http", 1)),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example/", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example/", ("http", 1)),
        ({"ALL_PROXY": "http://p:1"}, "http://a.example/", ("http", 1)),
        ({"ALL_PROXY": "http://p:1", "https_proxy": "http://p:2"}, "https://a.example/", ("http", 2)),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:2"}, "https://a.example/", ("http", 2)),
        ({"https_proxy": "", "HTTPS_PROXY": "p:3"}, "https://a.example/", ("http", 3)),
        ({"ALL_PROXY": "socks5://p"}, "https://a.example/", ("socks5", 1080)),
        ({"ALL_PROXY": "socks5h://p:9"}, "https://a.example/", ("socks5", 9)),
        ({"ALL_PROXY": "socks4://p"}, "https://a.example/", ("socks4", 1080)),
        ({"ALL_PROXY": "https://p"}, "https://a.example/", ("https", 443)),
        ({"ALL_PROXY": "http://p:1"}, "http://localhost:8000/", None),
        ({"ALL_PROXY": "socks5://p:1"}, "http://127.0.0.1:8000/", None),
        ({"ALL_PROXY": "http://p:1"}, "http://[::1]:8000/", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.example"}, "https://a.example/", None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": ".example"}, "https://b.a.example/", None),
    ],
)
def test_which_proxy_is_taken(environ: dict[str, str], url: str, expected: tuple[str, int] | None) -> None:
    """Lower case wins, the scheme's own before ALL_PROXY, an empty one is none, loopback never has one."""
    assert expected == proxied(environ, url)


@pytest.mark.parametrize(
    ("rules", "url", "expected"),
    [
        ("*", "http://a.example/", True),
        ("a.example", "http://a.example/", True),
        ("a.example", "http://b.a.example/", True),
        ("a.example", "http://ba.example/", False),
        (".a.example", "http://b.a.example/", True),
        ("*.a.example", "http://b.a.example/", True),
        (" x.example , A.Example ", "http://a.example/", True),
        ("a.example:8080", "http://a.example:8080/", True),
        ("a.example:8080", "http://a.example/", False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.1.2.3", "http://10.1.2.3:9/", True),
        ("10.1.2.3:8", "http://10.1.2.3:9/", False),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("[fd00::1]:8", "http://[fd00::1]:8/", True),
        ("fd00::1", "http://[fd00::1]:8/", True),
        ("", "http://a.example/", False),
        (",,", "http://a.example/", False),
    ],
)
def test_no_proxy_names_names_addresses_and_networks(rules: str, url: str, expected: bool) -> None:
    assert expected == is_excluded(target_of(url).origin, rules)


@given(st.text(max_size=40))
def test_a_value_that_is_no_proxy_is_a_mistake_that_names_the_variable(value: str) -> None:
    """Whatever stands there: a proxy, or exit 2 with the variable's name and without its value."""
    try:
        proxy = parsed_proxy("HTTPS_PROXY", f"http://user:{SECRET}@{value}")
    except InputError as error:
        assert "HTTPS_PROXY" in str(error)
        assert SECRET not in f"{error} {error.advice}"
    else:
        assert proxy.host
        assert SECRET not in f"{proxy!r} {proxy.place}"


@pytest.mark.parametrize(
    "value", ["ftp://p:1", "http://", "http://p:99999", "://", "http://[::1", "http//p:80", "http:/p:80", "p:80/x"]
)
def test_a_proxy_that_is_none_stops_before_anything_is_sent(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For paid requests and control calls alike; loopback does not look at it."""
    monkeypatch.setenv("ALL_PROXY", value)
    for opening in (lambda url: open_wire(connections=1, urls=[url]), lambda url: ControlClient(url, {})):
        with pytest.raises(InputError, match="ALL_PROXY"):
            opening("https://gateway.example/v1")
        opening("http://127.0.0.1:1/v1")


def test_a_proxy_that_wants_a_password_gets_it(
    server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password of the variable, percent signs decoded, in the CONNECT and nowhere else."""
    with ProxyServer(password="p@ss/w") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss%2Fw@127.0.0.1:{proxy.port}")
        reply = post(server.url("whole", "tunnel"))
    assert isinstance(reply, Response), reply
    assert b"proxy-authorization" not in server.last_request["whole"].lower()


def test_a_wrong_proxy_password_is_never_sent_and_named(
    server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy and its variable are named, the password is not; it will be so each time."""
    with ProxyServer(password="right") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{proxy.port}")
        fault = post(server.url("whole", "tunnel"))
    assert isinstance(fault, Fault)
    assert ("not_sent", "connection", True) == (fault.stage, fault.kind, fault.is_lasting)
    assert f"the proxy 127.0.0.1:{proxy.port} (HTTPS_PROXY) does not accept the user and the" in fault.message
    assert SECRET not in repr(fault)


@pytest.mark.parametrize(
    ("answer", "is_lasting"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", True),
        (b"HTTP/1.1 405 No\r\n\r\n", True),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH\r\n\r\n", True),
        (b"", False),
    ],
)
def test_whatever_a_proxy_answers_instead_is_not_sent(
    answer: bytes, is_lasting: bool, server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer(answer=answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
        fault = post(server.url("whole", "tunnel"))
    assert isinstance(fault, Fault)
    assert ("not_sent", is_lasting) == (fault.stage, fault.is_lasting)
    assert "HTTPS_PROXY" in fault.message


def test_a_proxy_that_is_not_there_is_blamed_by_its_name(
    server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the gateway's host; for control calls too."""
    with refusing_url() as nowhere:
        port = target_of(nowhere).origin.port
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        fault, control = post(server.url("whole", "tunnel")), listed(server.url("whole", "tunnel"))
    assert isinstance(fault, Fault)
    assert f"the proxy 127.0.0.1:{port} (HTTPS_PROXY): Connection refused" in fault.message
    assert isinstance(control, ControlFault)
    assert f"the proxy 127.0.0.1:{port} (HTTPS_PROXY): Connection refused" in control.message


def test_a_proxy_under_tls_tunnels_too(
    server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS to the proxy, and within it TLS to the gateway."""
    with ProxyServer(tls=server) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{proxy.port}")
        replies = [post(server.url(name, "tunnel"), times=3) for name in ("whole", "large_body")]
    assert [200, 200] == [reply.status for reply in replies if isinstance(reply, Response)]


def test_plain_http_goes_through_a_proxy_whole(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy reads the whole URL, and gets its password with each request."""
    place = server.url("whole").removeprefix("http://").removesuffix("/v1/whole")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@{place}")
    assert isinstance(post("http://model.invalid:81/v1?x=y"), Response)
    request = server.last_request["whole"].lower()
    assert b"post http://model.invalid:81/v1?x=y http/1.1\r\n" in request
    assert b"host: model.invalid:81\r\n" in request
    assert b"proxy-authorization: basic dxnlcjpzzwnyzxq=\r\n" in request


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4a", "socks4"])
@pytest.mark.parametrize("way", ["http", "https"])
def test_a_socks_proxy_relays(
    scheme: str, way: Any, server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks the name up; TLS goes through it end to end."""
    with SocksServer() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{proxy.server_address[1]}")
        reply = post(server.url("whole", way).replace("127.0.0.1", HOST), times=2)
    assert isinstance(reply, Response), reply


def test_a_socks_proxy_that_refuses_is_named(
    server: FaultServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SocksServer(refuses=True) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://user:{SECRET}@127.0.0.1:{proxy.server_address[1]}")
        fault = post(server.url("whole", "tunnel"))
    assert isinstance(fault, Fault)
    assert ("not_sent", True) == (fault.stage, fault.is_lasting)
    assert "(ALL_PROXY)" in fault.message
    assert SECRET not in repr(fault)


class SocksServer(socketserver.ThreadingTCPServer):
    """SOCKS 4 and 5 without a password, to loopback whatever the name; or one that accepts nobody."""

    daemon_threads = True

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), SocksHandler)
        self.refuses = refuses
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        super().__exit__(*details)


class SocksHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            port = self._five() if self._read(1) == b"\x05" else self._four()
            if port is not None:
                self._relay(port)

    def _five(self) -> int | None:
        self._read(self._read(1)[0])
        if self.server.refuses:
            self.request.sendall(b"\x05\xff")
            return None
        self.request.sendall(b"\x05\x00")
        kind = self._read(4)[3]
        self._read(4 if kind == 1 else self._read(1)[0])
        port = int.from_bytes(self._read(2), "big")
        self.request.sendall(b"\x05\x00\x00\x01" + bytes(6))
        return port

    def _four(self) -> int:
        self._read(1)
        port = int.from_bytes(self._read(2), "big")
        address = self._read(4)
        while self._read(1) != b"\x00":
            pass
        while address[:3] == b"\x00\x00\x00" and self._read(1) != b"\x00":
            pass
        self.request.sendall(b"\x00\x5a" + bytes(6))
        return port

    def _relay(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as there:
            threading.Thread(target=self._pump, args=(there, self.request), daemon=True).start()
            self._pump(self.request, there)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.request.recv(count - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data


# URLs


@pytest.mark.parametrize(
    ("url", "origin", "authority", "path"),
    [
        ("http://A.Example", ("http", "a.example", 80), "a.example", "/"),
        ("https://a.example:443/v1", ("https", "a.example", 443), "a.example", "/v1"),
        ("https://a.example:8443/v1?x=y z", ("https", "a.example", 8443), "a.example:8443", "/v1?x=y%20z"),
        ("http://[::1]:8080/v1", ("http", "::1", 8080), "[::1]:8080", "/v1"),
        ("http://[FE80::1%25eNp0]/v1", ("http", "fe80::1%eNp0", 80), "[fe80::1]", "/v1"),
        (
            "http://bücher.example/ä%2F",
            ("http", "xn--bcher-kva.example", 80),
            "xn--bcher-kva.example",
            "/%C3%A4%2F",
        ),
        ("http://user:pw@a.example/", ("http", "a.example", 80), "a.example", "/"),
    ],
)
def test_a_url_says_where_and_what(url: str, origin: tuple[str, str, int], authority: str, path: str) -> None:
    target = target_of(url)
    assert Origin(*origin) == target.origin
    assert (authority, path) == (target.origin.authority, target.path)


@given(st.text())
def test_no_url_smuggles_a_line_into_the_request(text: str) -> None:
    """Whatever stands in it: a request line of printable ASCII, or a mistake."""
    for url in (f"http://{text}/v1", f"http://h/{text}", f"http://h/v1?{text}"):
        try:
            target = target_of(url)
        except InputError:
            continue
        shown = f"{target.path}{target.origin.authority}"
        assert shown.isascii()
        assert shown.isprintable()
        assert " " not in shown


def test_an_ipv6_gateway_is_reached(server: FaultServer) -> None:
    """Link-local addresses too: their scope says over which interface, and no server sees it."""
    addresses = (
        [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        if Path("/proc/net/if_inet6").exists()
        else []
    )
    if not addresses:
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        seen: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        listener = await asyncio.start_server(serve, "::", 0, family=socket.AF_INET6)
        port = listener.sockets[0].getsockname()[1]
        wire: Wire = open_wire(connections=2)
        for hexadecimal, _, _, scope, _, device in addresses:
            host = ":".join(hexadecimal[i : i + 4] for i in range(0, 32, 4))
            written = f"{host}%25{device}" if scope == "20" else host
            reply = await wire.post(f"http://[{written}]:{port}/v1", HEADERS, b"", 5.0)
            assert isinstance(reply, Response), reply
            assert b"%" not in seen[-1]
        await wire.close()
        listener.close()

    asyncio.run(main())


# Heads


LENGTHS = st.lists(st.sampled_from([b"2", b"2", b"7", b" 2", b"2, 2"]), max_size=3)
CODINGS = st.lists(st.sampled_from([b"chunked", b"identity", b"gzip, chunked", b" identity"]), max_size=2)


@given(LENGTHS, CODINGS, st.booleans(), st.sampled_from([b"\r\n", b"\n"]), st.binary(max_size=20))
def test_a_mended_head_has_one_end_or_is_refused(
    lengths: list[bytes], codings: list[bytes], folded: bool, line_end: bytes, rest: bytes
) -> None:
    """One length or one coding, never both; what was never in doubt keeps its meaning; the body is left alone."""
    lines = [b"HTTP/1.1 200 OK", b"X-A: one" + (line_end + b"\ttwo" if folded else b" two")]
    lines += [b"Content-Length: " + value for value in lengths]
    lines += [b"Transfer-Encoding:" + value for value in codings]
    found = repaired(line_end.join(lines) + line_end * 2 + rest)
    values = {part.strip() for value in lengths for part in value.split(b",")}
    is_coded = any(b"chunked" in coding for coding in codings)
    if len(values) > 1 or (values and is_coded):
        assert isinstance(found, RefusedHead)
        assert (200, rest) == (found.status, found.rest)
        assert found.why
    elif isinstance(found, bytes):
        head, _, body = found.partition(b"\r\n\r\n")
        assert rest == body
        assert head.lower().count(b"content-length:") == bool(values)
        assert b"identity" not in head
        assert b"X-A: one two" in head
    else:
        assert isinstance(found, RefusedHead)
        assert found.is_well_formed


@given(st.binary(max_size=60))
def test_no_bytes_break_the_mending(raw: bytes) -> None:
    """Any beginning: refused, waited for, or repaired."""
    for text in (raw, b"HTTP/1.1 200 OK\r\n" + raw, b"HTTP/1.1 200 OK\r\n" + raw + b"\r\n\r\n"):
        assert isinstance(repaired(text), bytes | RefusedHead | None)


# A machine that sleeps


@pytest.mark.parametrize("way", ["http", "https"])
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_reply_that_is_there_when_the_machine_wakes_up_is_read(
    way: Any, size: int, server: FaultServer, trusted: Path
) -> None:
    """The deadline passed while this process stood still: what has arrived meanwhile is a reply, not a fault."""
    name = "late_body" if size == 100 else "late_large_body"

    async def main() -> Response | Fault:
        wire = open_wire(connections=1)
        call = asyncio.ensure_future(wire.post(server.url(name, way), HEADERS, BODY, 0.5))
        await asyncio.sleep(0.2)
        time.sleep(2.0)  # noqa: ASYNC251 - the process stands still
        result = await call
        await wire.close()
        return result

    reply = asyncio.run(main())
    assert isinstance(reply, Response), reply
    assert len(reply.body) >= size


def test_a_fault_after_a_standstill_says_so(server: FaultServer) -> None:
    async def main() -> Response | Fault:
        wire = open_wire(connections=1)
        call = asyncio.ensure_future(wire.post(server.url("stall_before_headers"), HEADERS, BODY, 0.3))
        await asyncio.sleep(0.1)
        time.sleep(2.5)  # noqa: ASYNC251 - the process stands still
        result = await call
        await wire.close()
        return result

    fault = asyncio.run(main())
    assert isinstance(fault, Fault)
    assert "this process stood still for 2 s or more" in fault.message


def test_a_standstill_is_said_with_its_length() -> None:
    """Once for each, and an ordinary delay is none."""
    readings = iter([0.0, 1.5, 1.5, 741.5, 741.5, 742.0])
    said: list[str] = []

    async def main() -> None:
        watching = asyncio.create_task(tell_standstill(said.append, 0.001, lambda: next(readings, 742.0)))
        await asyncio.sleep(0.1)
        watching.cancel()

    asyncio.run(main())
    assert 1 == len(said), said
    assert "stood still for 12 min" in said[0]
    assert seconds_with_sleep() <= seconds_with_sleep()


def test_the_certificates_name_is_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of somebody else, though of a trusted CA, is refused and named so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)

    async def main() -> Response | Fault:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        wire = open_wire(connections=1)
        result = await wire.post(f"https://localhost:{port}/v1", HEADERS, BODY, 5.0)
        await wire.close()
        listener.close()
        return result

    fault = asyncio.run(main())
    assert isinstance(fault, Fault)
    assert ("not_sent", True) == (fault.stage, fault.is_lasting)
    assert "the certificate of localhost is for another name" in fault.message
