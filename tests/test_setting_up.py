"""Laws of what surrounds a run: --dry-run, doctor, completion, the manual page, who is told at the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cli_kit
import httpx
import man_page
import pytest
import trustme
import typer

import crun_batch
from crun_batch import InputError, Job
from crun_batch.cli import commands
from crun_batch.cli.command_tree import command_tree
from crun_batch.cli.completion import completion_script
from crun_batch.cli.versions import installed_versions
from crun_batch.console.doctor_words import doctor_text
from crun_batch.options import Platform, RunOptions
from crun_batch.preflight import doctor
from crun_batch.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with cli_kit.gateway() as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: SimulatorProcess) -> Path:
    """A job of 20 rows in the current directory, and a gateway to send it to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRUN_API_KEY", cli_kit.KEY)
    monkeypatch.setenv("CRUN_BASE_URL", gateway.base_url)
    (tmp_path / "rows.csv").write_text(cli_kit.rows(20))
    (tmp_path / "job.yaml").write_text(cli_kit.JOB)
    return tmp_path


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    return cli_kit.commander(capfdbinary, monkeypatch)


def tree() -> Any:
    return command_tree(typer.main.get_command(commands.app))


# --- --dry-run ---


def test_a_dry_run_shows_the_bill_and_leaves_nothing(folder, gateway, command):
    before = gateway.ledger()["count"]
    code, out, _ = command("run", "job.yaml", "--dry-run")
    assert 0 == code
    assert "20 requests" in out
    assert out.endswith("dry run: nothing was sent, nothing was written; without --dry-run it starts\n")
    assert (before, False) == (gateway.ledger()["count"], (folder / "runs").exists())


def test_a_dry_run_of_what_would_be_refused_exits_as_it_would(folder, command):
    code, out, _ = command("run", "job.yaml", "--dry-run", "--max-cost-credits", "0.01")
    assert 3 == code
    assert out.endswith("without --dry-run it is refused\n")


def test_a_dry_run_without_the_key_exits_as_the_run_would(folder, command, monkeypatch):
    monkeypatch.delenv("CRUN_API_KEY")
    code, _, err = command("run", "job.yaml", "--dry-run")
    assert 2 == code
    assert "CRUN_API_KEY is not set" in err
    (folder / ".env").write_text(f"CRUN_API_KEY={cli_kit.KEY}\n")
    assert 0 == command("run", "job.yaml", "--dry-run", "--env-file", ".env")[0]


@pytest.mark.parametrize(
    "option", [("--pilot", "3"), ("--retry", "failed"), ("--redo-changed",), ("--correct-prices",)]
)
def test_a_dry_run_refuses_what_it_would_not_look_at(folder, command, option):
    code, _, err = command("run", "job.yaml", "--dry-run", *option)
    assert 2 == code
    assert f"cannot stand beside {option[0]}" in err


def test_a_dry_run_in_json_is_the_estimate(folder, command):
    code, out, _ = command("run", "job.yaml", "--dry-run", "--json")
    assert (0, True) == (code, json.loads(out)["may_start"])


# --- versions ---


def test_versions_are_those_of_the_installed_metadata():
    from importlib.metadata import version

    names = ("crun-batch", "polars", "genai-prices", "ruamel.yaml", "jsonschema-rs")
    assert {name: version(name) for name in names} == installed_versions(names)
    assert {"no-such-thing": "not installed"} == installed_versions(("no-such-thing",))


# --- completion ---

BASH = """
source SCRIPT
COMP_WORDS=(TYPED)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_crun_batch
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed_by_bash(script: Path, *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in ("crun-batch", *words))
    text = BASH.replace("SCRIPT", str(script)).replace("TYPED", quoted)
    done = subprocess.run(["bash", "--norc", "-c", text], capture_output=True, text=True, check=True)
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("ru",), {"run", "runs"}),
        (("",), {"init", "check", "doctor", "--version"}),
        (("run", "--dr"), {"--dry-run"}),
        (("run", "job.yaml", "--max"), {"--max-cost-usd", "--max-cost-credits"}),
        (("export", "run", "--format", "c"), {"csv", "chat-jsonl"}),
        (("export", "--format", ""), {"csv", "jsonl", "parquet"}),
    ],
)
def test_bash_completes_commands_options_and_values(tmp_path, words, some):
    script = tmp_path / "completion.sh"
    script.write_text(completion_script("bash", tree()))
    found = set(completed_by_bash(script, *words))
    assert some <= found
    assert all(one.startswith(words[-1]) for one in found)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_files_where_a_job_or_a_value_stands(tmp_path):
    """Nothing is offered, so that bash's own completion of files comes in."""
    script = tmp_path / "completion.sh"
    script.write_text(completion_script("bash", tree()))
    assert [] == completed_by_bash(script, "run", "jo")
    assert [] == completed_by_bash(script, "run", "job.yaml", "--env-file", "")
    assert "complete -o default" in script.read_text()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_script(tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "completion"
    script.write_text(completion_script(shell, tree()))
    setup = "autoload -Uz compinit; compinit -D -u; " if shell == "zsh" else ""
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else ["--no-config"]), "-c", f"{setup}source {script}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert (0, "") == (done.returncode, done.stderr)
    if shell == "fish":
        asked = f"source {script}; complete -C 'crun-batch run --dr'"
        out = subprocess.run(
            ["fish", "--no-config", "-c", asked], capture_output=True, text=True, check=True
        ).stdout
        assert out.startswith("--dry-run\t")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_every_script(shell):
    script = completion_script(shell, tree())
    for one in tree():
        assert one.name in script
        for switch in one.switches:
            for name in switch.names:
                assert (name if shell != "fish" else name.lstrip("-")) in script


def test_the_command_prints_the_script(command):
    assert (0, completion_script("bash", tree()), "") == command("completion", "bash")


# --- the manual page ---


def test_the_manual_page_is_what_the_commands_say():
    """UPDATE_DOCS=1 writes it anew."""
    from importlib.metadata import version

    made = man_page.man_page(tree(), version("crun-batch"), commands.HELP)
    if os.environ.get("UPDATE_DOCS"):
        man_page.PAGE.write_text(made, encoding="utf-8")
    assert made == man_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_troff_reads_the_manual_page_without_a_word():
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(man_page.PAGE)], capture_output=True, text=True, check=True
    )
    assert "" == done.stderr
    plain = re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)
    assert "--dry-run" in plain
    assert "CRUN_API_KEY" in plain


# --- doctor ---


def told(document: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["about"]: (one["level"], one["says"]) for one in document["findings"]}


def test_doctor_finds_a_ready_machine_and_gateway(folder, gateway, command):
    before = gateway.ledger()["count"]
    code, out, err = command("doctor", "job.yaml")
    assert (0, "") == (code, err)
    assert out.endswith("\nready\n")
    for about in (
        "python",
        "libraries",
        "certificates",
        "proxy",
        "open files",
        "results",
        "gateway",
        "key",
        "balance",
    ):
        assert re.search(rf"^ok +{about}  ", out, re.MULTILINE), about
    assert cli_kit.KEY not in out
    assert (before, False) == (gateway.ledger()["count"], (folder / "runs").exists())


def test_doctor_needs_no_job(folder):
    assert crun_batch.doctor()["is_ready"]


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, and without loading every library once more in another process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "LIBRARIES", ("json",))


def offered(replies: Mapping[str, httpx.Response], job: Job | None = None) -> dict[str, tuple[str, str]]:
    """What doctor says where the gateway answers so, by the end of the path."""

    def answer(request: httpx.Request) -> httpx.Response:
        return next(
            (reply for end, reply in replies.items() if request.url.path.endswith(end)), httpx.Response(404)
        )

    transport = httpx.MockTransport(answer)
    options = RunOptions(environ={"CRUN_API_KEY": cli_kit.KEY}, platform=Platform(transport=transport))
    made = job or Job(model="m", prompt={"user": "x"})
    return told(asyncio.run(doctor.diagnose(made, options)))


MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}


def test_a_key_that_is_refused_is_a_problem_and_is_named_by_its_variable(quick):
    found = offered({"/models": httpx.Response(401, json={"error": {"message": f"bad key {cli_kit.KEY}"}})})
    assert "problem" == found["key"][0]
    assert "CRUN_API_KEY" in found["key"][1]
    assert cli_kit.KEY not in str(found)
    assert "balance" not in found


@pytest.mark.parametrize(("seconds", "level"), [(5, "good"), (-5, "good"), (90, "problem"), (-86_400, "problem")])
def test_a_clock_that_is_wrong_is_a_problem(quick, seconds, level):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    found = offered({"/models": httpx.Response(200, json=MODELS, headers={"Date": date})})
    assert level == found["clock"][0]


def test_a_clock_that_nobody_tells_is_not_judged(quick):
    for headers in ({}, {"Date": "yesterday"}):
        assert "clock" not in offered({"/models": httpx.Response(200, json=MODELS, headers=headers)})


@pytest.mark.parametrize(
    ("data", "level"),
    [({"balance": 0}, "problem"), ({"balance": "12.5"}, "good"), ({"balance": "much"}, "problem")],
)
def test_what_is_left_is_judged(quick, data, level):
    balance = httpx.Response(200, json={"code": 200, "data": data})
    found = offered({"/models": httpx.Response(200, json=MODELS), "/client/account/balance": balance})
    assert level == found["balance"][0]


def test_a_gateway_without_a_balance_call_is_a_note(quick):
    other = Job(model="m", prompt={"user": "x"}, endpoint={"base_url": "https://other.example/v1", "auth": "none"})
    assert "note" == offered({"/models": httpx.Response(200, json=MODELS)}, other)["balance"][0]


def test_a_gateway_that_is_not_there_is_a_problem_and_the_rest_is_told(folder, quick, command, monkeypatch):
    monkeypatch.setenv("CRUN_BASE_URL", "http://127.0.0.1:9/v1")
    code, out, _ = command("doctor", "job.yaml", "--json")
    document = json.loads(out)
    assert (1, False) == (code, document["is_ready"])
    assert "problem" == told(document)["gateway"][0]
    assert "good" == told(document)["libraries"][0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ImportError('no room for it')", "no room for it"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended the process (SIGILL)"),
    ],
)
def test_a_library_that_does_not_load_is_named(tmp_path, monkeypatch, body, says):
    (tmp_path / "broken_wheel.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = doctor._libraries(("json", "broken_wheel", "csv"))
    assert "problem" == found.level
    assert found.says.startswith("broken_wheel")
    assert says in found.says
    assert (found.advice or "").endswith(" broken-wheel")


def test_a_proxy_or_certificates_that_cannot_be_used_are_problems_without_their_password(quick, tmp_path):
    environ = {
        "CRUN_API_KEY": cli_kit.KEY,
        "HTTPS_PROXY": "gopher://me:s3cretpass@x",
        "SSL_CERT_FILE": str(tmp_path / "no"),
    }
    transport = httpx.MockTransport(lambda _: httpx.Response(404))
    options = RunOptions(environ=environ, platform=Platform(transport=transport))
    document = asyncio.run(doctor.diagnose(Job(model="m", prompt={"user": "x"}), options))
    assert ("problem", "problem") == (told(document)["proxy"][0], told(document)["certificates"][0])
    assert "s3cretpass" not in json.dumps(document)
    shown = doctor_text(document, 60)
    assert shown.endswith("problems")
    assert all(len(line) <= 60 or " " not in line.strip() for line in shown.splitlines() if "->" not in line)


# --- on_end ---

TELLER = """
import json, os, sys, time
document = json.load(sys.stdin)
open({path!r} + ".pid", "w").write(str(os.getpid()))
document["variables"] = sorted(os.environ)
time.sleep({pause})
open({path!r}, "w").write(json.dumps(document))
sys.exit({code})
"""


def with_teller(folder: Path, *, pause: float = 0.0, code: int = 0) -> Path:
    """The job with a command at its end; the file that the command writes."""
    path = folder / "told.json"
    (folder / "tell.py").write_text(TELLER.format(pause=pause, path=str(path), code=code))
    words = json.dumps([sys.executable, str(folder / "tell.py")])
    (folder / "job.yaml").write_text(f"{cli_kit.JOB}on_end: {{command: {words}}}\n")
    return path


def awaited(path: Path) -> Any:
    """What a file says, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return json.loads(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path.name} never came")


def test_a_command_is_told_how_the_run_ended_and_sees_no_key(folder):
    path = with_teller(folder)
    done = crun_batch.run("job.yaml", handle_signals=False)
    told_document = awaited(path)
    assert ("small", "finished", 0, 20) == (
        told_document["name"],
        told_document["status"],
        told_document["exit_code"],
        told_document["rows"]["ok"],
    )
    assert "finished (exit code 0)" in told_document["text"]
    assert "CRUN_API_KEY" not in told_document["variables"]
    assert cli_kit.KEY not in path.read_text()
    assert {"told_at", "is_told", "failed"} == set(awaited(done.directory / "on_end.json"))
    assert 0o600 == (done.directory / "on_end.json").stat().st_mode & 0o777
    assert [] == [one for one in crun_batch.verify(done) if one.severity == "error"]


def test_the_end_does_not_wait_for_who_is_told(folder):
    path = with_teller(folder, pause=120.0)
    script = "import crun_batch; crun_batch.run('job.yaml')"
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=100)
    process = awaited(path.with_name("told.json.pid"))
    try:
        assert not path.exists()
        os.kill(process, 0)
    finally:
        os.kill(process, signal.SIGKILL)


def test_a_command_that_fails_is_told_by_status(folder, command):
    with_teller(folder, code=3)
    assert 0 == command("run", "job.yaml", "--yes")[0]
    awaited(folder / "runs" / "small" / "on_end.json")
    _, out, _ = command("status", "job.yaml")
    assert "nobody was told by the command: " in out
    assert "ended with exit code 3" in out


def test_a_command_that_is_not_there_is_said_before_anything_is_sent(folder, command):
    (folder / "job.yaml").write_text(
        f"{cli_kit.JOB}on_end: {{command: no-such-program x, webhook_env: NO_SUCH_VARIABLE}}\n"
    )
    _, _, err = command("run", "job.yaml", "--yes")
    assert "there is no program 'no-such-program'" in err
    assert "the variable NO_SUCH_VARIABLE is not set" in err
    document = crun_batch.check("job.yaml")
    assert 2 == sum("on_end" in one for one in document["warnings"])
    assert {"command": "no-such-program x", "webhook_env": "NO_SUCH_VARIABLE"} == document["on_end"]


def test_nobody_is_told_of_a_simulated_run_or_of_one_that_sent_nothing(folder, command):
    path = with_teller(folder)
    assert command("run", "job.yaml", "--simulate")[0] in (0, 1)
    assert 3 == command("run", "job.yaml", "--max-cost-credits", "0.01")[0]
    time.sleep(0.5)
    assert not path.exists()


def test_a_run_directory_whose_disk_fails_tells_it_too(folder, monkeypatch):
    from crun_batch.errors import DiskFailed
    from crun_batch.session import sending

    path = with_teller(folder)

    async def fails(context: Any, *_: Any) -> None:
        context.state.reservations = object()
        raise DiskFailed("no room")

    monkeypatch.setattr(sending, "_send", fails)
    with pytest.raises(DiskFailed):
        crun_batch.run("job.yaml", handle_signals=False)
    found = awaited(path)
    assert ("stopped", 7, "no room") == (found["status"], found["exit_code"], found["stop_reason"])


def test_a_webhook_is_posted_to_and_its_address_is_in_no_file(folder, monkeypatch, tmp_path):
    got: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, json.loads(body)))
            status = 503 if len(got) == 1 else 200
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    authority = trustme.CA()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HOOK", f"https://127.0.0.1:{server.server_port}/s3cret-part")
    (folder / "job.yaml").write_text(f"{cli_kit.JOB}on_end: {{webhook_env: HOOK}}\n")
    try:
        done = crun_batch.run("job.yaml", handle_signals=False)
        record = awaited(done.directory / "on_end.json")
    finally:
        server.shutdown()
        server.server_close()
    assert (True, 2) == (record["is_told"], len(got))
    assert ("/s3cret-part", "finished") == (got[-1][0], got[-1][1]["status"])
    written = b"".join(path.read_bytes() for path in done.directory.rglob("*") if path.is_file())
    assert b"s3cret-part" not in written


def test_a_webhook_in_the_job_file_is_refused():
    with pytest.raises(InputError, match="unknown key"):
        Job(model="m", prompt={"user": "x"}, on_end={"webhook": "https://hooks.example/x"})
