"""What the figures were measured on, servers and clients as processes on cores of their own."""

from __future__ import annotations

import json
import os
import platform
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "crun-batch-benchmarks"
"""Tables and environments that are made once."""
SERVER_CORE, CLIENT_CORE = 0, 1


class Server:
    """A running static server."""

    def __init__(self, root_url: str, ca_file: Path | None) -> None:
        self.root_url = root_url
        self.base_url = f"{root_url}/api/v1"
        self.environ = {} if ca_file is None else {"SSL_CERT_FILE": str(ca_file)}
        """What makes a client trust it: every client that is measured reads this."""
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file)),
        )

    def stats(self) -> dict[str, Any]:
        with self._opener.open(f"{self.root_url}/stats") as reply:
            stats: dict[str, Any] = json.load(reply)
            return stats


@contextmanager
def static_server(
    latency_seconds: float = 0.0,
    *,
    tls: bool = False,
    spin_us: float = 0.0,
    many_headers: bool = False,
    every: int | None = None,
) -> Iterator[Server]:
    """The static gateway on the first core, until the block ends; with `tls` its certificate is made for it.

    `spin_us`: how long it works on each reply. `many_headers`: those of a large provider. `every`: of how many
    requests it keeps the time of one.
    """
    command = [sys.executable, str(HERE / "static_server.py"), "--core", str(SERVER_CORE)]
    command += ["--latency-seconds", str(latency_seconds), "--spin-us", str(spin_us)]
    command += ["--many-headers"] if many_headers else []
    command += [] if every is None else ["--every", str(every)]
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as folder:
        ca_file = _certified(Path(folder)) if tls else None
        if ca_file is not None:
            command += ["--certificate", str(Path(folder) / "server.pem")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield Server(f"http{'s' if tls else ''}://127.0.0.1:{port}", ca_file)
        finally:
            process.terminate()
            process.wait()


def _certified(folder: Path) -> Path:
    """Make a CA and a certificate of loopback in that folder; the CA's file."""
    import trustme

    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder / "ca.pem"


def client_command(
    python: Path | str, script: Path, server: Server, table: Path, *, rows: int, in_flight: int, output_dir: Path
) -> Sequence[str]:
    """The command line of a client on the second core."""
    return [
        str(python),
        str(script),
        f"--base-url={server.base_url}",
        f"--table={table}",
        f"--rows={rows}",
        f"--in-flight={in_flight}",
        f"--core={CLIENT_CORE}",
        f"--output-dir={output_dir}",
    ]


def measure_client(
    python: Path | str, script: Path, server: Server, table: Path, *, rows: int, in_flight: int, output_dir: Path
) -> dict[str, Any]:
    """Run one client to its end; its measurements, and the server's share of a core meanwhile."""
    before = server.stats()
    command = client_command(python, script, server, table, rows=rows, in_flight=in_flight, output_dir=output_dir)
    environ = os.environ | server.environ
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    after = server.stats()
    if after["requests"] - before["requests"] != rows:
        raise SystemExit(f"{script.name} sent {after['requests'] - before['requests']} requests for {rows} rows")
    measured["server_busy"] = (after["cpu_seconds"] - before["cpu_seconds"]) / measured["wall_seconds"]
    return measured


def description() -> str:
    """The machine in one line: processor, cores, memory, system, Python."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, {system}, "
        f"Python {platform.python_version()}{_built()}"
    )


def _built() -> str:
    """Whose Python it is: distributions optimize theirs with a profile, which many built by hand are not."""
    if sys.base_prefix != "/usr":
        return ""
    return f" of {platform.freedesktop_os_release()['PRETTY_NAME']}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
