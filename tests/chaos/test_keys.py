"""The key is in no file, log, message, traceback or process list: every byte is searched, in every form."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import polars as pl

from crun_batch import run
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.control import ControlClient, list_models
from crun_batch.gateway.http.bodies import ByteBudget, WireSettings
from crun_batch.gateway.http.httpx_wire import HttpxWire
from crun_batch.gateway.http.wire import open_wire
from crun_batch.gateway.pool_seams import Route
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.load.job.job import Job
from crun_batch.load.job.secrets import resolve_secrets
from crun_batch.workload.endpoint import endpoint_of

from .hostile_server import HostileGateway

KEY = "ak_sim+MARKED/0123456789=abcdef"
HEADER = "team~secret~9876543210"
JOB = """
input: {{table: t.csv}}
endpoint: {{base_url: "{base_url}", api_key_env: MARKED_KEY, headers: {{X-Team: "${{MARKED_HEADER}}"}}}}
model: m
prompt: {{user: "case {{{{ text }}}}"}}
budget: {{credits: "off"}}
output: {{dir: {folder}}}
"""
FORMS = [
    form
    for secret in (KEY, HEADER)
    for form in (
        secret.encode(),
        quote(secret, safe="").encode(),
        quote(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
        *(base64.b64encode(b" " * shift + secret.encode())[4 if shift else 0 : -8] for shift in range(3)),
        base64.urlsafe_b64encode(secret.encode())[:-4],
    )
]
ENVIRON = {"MARKED_KEY": KEY, "MARKED_HEADER": HEADER}
SCRIPT = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
os.environ["RUST_LOG"] = "trace"
from crun_batch import run
ended = run(sys.argv[1])
print(ended, ended.attempts().collect(), open("/proc/self/cmdline").read())
print(ended.results().collect().to_dicts())
"""
COMMANDS = """
import logging, shlex, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from crun_batch.cli.commands import main
for line in sys.stdin.read().strip().splitlines():
    print("exit code", main(shlex.split(line)), "of", line, flush=True)
"""
LINES = """
check {job}
estimate {job}
run {job} --yes
run {job} --yes --retry error
run {job} --yes --set endpoint.auth=x-api-key --output-dir {run}2
run {job} --yes --set limits.bogus=1
status {run}
status {run} --json
report {run}
compare {run} {run}2
verify {run} --data
export {run} --format csv --output {run}.csv
export {run} --format openai-batch
sql {run} "select * from attempts"
sql {run} "select * from results" --json
models {job}
credits {job}
"""


class EchoingGateway(HostileGateway):
    """Shows the key that it was sent, in every form that it can think of."""

    def echo(self, headers, name):
        secrets = [headers.get("Authorization", headers.get("authorization", "")), headers.get("X-Team", "")]
        secrets = [secret.removeprefix("Bearer ") for secret in secrets]
        forms = [*secrets, *map(quote, secrets), *(quote(secret, safe="") for secret in secrets)]
        coded = [base64.b64encode(b" " * shift + secret.encode()) for secret in secrets for shift in range(3)]
        forms += [one.decode() for one in coded] + [one.decode().replace("+", "-") for one in coded]
        forms += [secret.replace("/", "\\/") for secret in secrets]
        error = {"message": f"bad key {' '.join(forms)}", "type": "invalid", "headers": headers}
        return json.dumps({"error": error}).encode()


def found_in(data: bytes) -> list[bytes]:
    return [form for form in FORMS if form in data]


def job(base_url: str, folder: Path, **changes) -> Job:
    return Job(
        name="keys",
        endpoint={
            "base_url": base_url,
            "api_key_env": "MARKED_KEY",
            "headers": {"X-Team": "${MARKED_HEADER}"},
            **changes,
        },
        model="m",
        prompt={"user": "case {{ text }}"},
        budget={"credits": "off"},
        limits={"max_attempts": 1},
        output={"dir": str(folder)},
    )


def test_an_echoing_gateway_gets_the_key_into_no_file_and_no_output(tmp_path):
    """A process with debug logs, whose gateway repeats the key in its errors: all its bytes hold it nowhere."""
    pl.DataFrame({"text": ["a", "b", "c"]}).write_csv(tmp_path / "t.csv")
    with EchoingGateway(echo_key=True) as gateway:
        (tmp_path / "job.yaml").write_text(JOB.format(base_url=gateway.base_url, folder=tmp_path / "run"))
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "job.yaml")],
            env={**ENVIRON, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
            timeout=60,
        )
    assert b"bad key" in ended.stdout
    assert [] == found_in(ended.stdout + ended.stderr)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert {} == {str(path): found for path in files if (found := found_in(path.read_bytes()))}


def test_no_command_shows_the_key_and_no_process_is_called_by_it(tmp_path):
    """All commands, the report and the export included; and the command line of each process that they start."""
    pl.DataFrame({"text": ["a", "b", "c"]}).write_csv(tmp_path / "t.csv")
    job, folder = tmp_path / "job.yaml", tmp_path / "run"
    with EchoingGateway(echo_key=True) as gateway:
        job.write_text(JOB.format(base_url=gateway.base_url, folder=folder))
        child = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            env={**ENVIRON, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        with ThreadPoolExecutor(1) as reader:
            saying = reader.submit(child.communicate, LINES.format(job=job, run=folder).encode(), timeout=120)
            called = set()
            while not saying.done():
                called |= command_lines(child.pid)
                time.sleep(0.01)
        said = saying.result()[0]
    assert said.count(b"bad key") >= 3
    assert [0, 0, 1, 1, 1, 2, *[0] * 11] == [int(code) for code in re.findall(rb"exit code (\d+) of ", said)]
    assert (folder / "report.html").exists()
    assert (tmp_path / "run.csv").exists()
    assert any(COMMANDS.encode() in line for line in called)
    assert [] == found_in(said + b"".join(called))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {} == {str(path): found for path in files if (found := found_in(path.read_bytes()))}


def command_lines(group: int) -> set[bytes]:
    """Those of all processes of a group, as `ps` shows them."""
    lines = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(place.name)) == group:
                lines.add((place / "cmdline").read_bytes())
    return lines


class FailingWire:
    """A wire that breaks with the request in its hands."""

    async def post(self, url, headers, body, deadline_seconds):
        raise RuntimeError(f"broke in the middle of {headers!r}")

    async def close(self):
        pass


def test_an_exception_in_the_middle_of_a_request_shows_no_key(tmp_path):
    """Not even in a traceback that prints every local variable of every frame."""
    with HostileGateway() as gateway:
        try:
            run(
                job(gateway.base_url, tmp_path / "run"),
                table=pl.DataFrame({"text": ["right"]}),
                environ=ENVIRON,
                wire=lambda _: FailingWire(),
            )
        except RuntimeError as error:
            text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "broke in the middle" in text
    shown = text.replace(repr(ENVIRON), "")  # the test's own variable
    assert [] == found_in(shown.encode())


def test_no_object_of_ours_shows_the_key():
    asyncio.run(_show_every_object())


async def _show_every_object():
    secrets = resolve_secrets(job("http://127.0.0.1:9/v1", Path("x")), ENVIRON)
    endpoint = endpoint_of(job("http://127.0.0.1:9/v1", Path("x")), ENVIRON, simulated=False)
    route = Route(Lane(ceiling=1), "http://127.0.0.1:9/v1", endpoint.headers, PROTOCOLS["chat"], stream=False)
    wires = [open_wire(connections=1), HttpxWire(WireSettings(ByteBudget(2**20, 1)), httpx.AsyncHTTPTransport())]
    gateway = ControlClient("http://127.0.0.1:9/v1", endpoint.headers, attempts=1, deadline_seconds=2)
    objects = [secrets, secrets.headers, endpoint, endpoint.headers, route, gateway, *wires, *map(vars, wires)]
    objects += [vars(gateway), await list_models(gateway)]
    objects += [await wire.post("http://127.0.0.1:9/v1", endpoint.headers, b"{}", 2.0) for wire in wires]
    assert [] == found_in(" ".join(f"{one!r} {one!s}" for one in objects).encode())
    for wire in wires:
        await wire.close()
    await gateway.close()


def test_debug_logs_of_a_wire_show_no_key(caplog):
    caplog.set_level(logging.DEBUG)
    asyncio.run(_post_once())
    assert [] == found_in(caplog.text.encode())


async def _post_once():
    endpoint = endpoint_of(job("http://127.0.0.1:9/v1", Path("x")), ENVIRON, simulated=False)
    with HostileGateway() as server:
        wire = open_wire(connections=1)
        await wire.post(f"{server.base_url}/chat/completions", endpoint.headers, b"case right", 5.0)
        await wire.close()


def test_httpx_itself_would_show_an_api_key_header():
    """Why headers have a type of their own: the library hides `authorization` only."""
    assert "secret" in repr(httpx.Headers({"x-api-key": "secret"}))
