"""The command line: words, documents, exit codes; and real processes that are interrupted."""

from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cli_kit
import pyarrow.parquet as pq
import pytest
import typer

from crun_batch import open_run
from crun_batch.cli import commands as cli
from crun_batch.cli.options import pairs, resume_command
from crun_batch.cli.screen import Screen
from crun_batch.cli.versions import TOLD_LIBRARIES
from crun_batch.errors import InputError
from crun_batch.options import kinds
from crun_batch.page.held import HeldRoom
from crun_batch.page.shown_runs import ShownRun
from crun_batch.simulator import SimulatorProcess

DOCS = Path(__file__).parent.parent / "docs" / "command-line.md"
MARK = "`UPDATE_DOCS=1 pytest tests/test_cli.py -k reference` writes it anew.\n"
JOB = cli_kit.JOB + "limits: {concurrency: 8}\n"


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with cli_kit.gateway() as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of 40 rows in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRUN_API_KEY", cli_kit.KEY)
    (tmp_path / "rows.csv").write_text(cli_kit.rows(40))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def real(folder: Path, gateway: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a gateway to send it to."""
    monkeypatch.setenv("CRUN_BASE_URL", gateway.base_url)
    return folder


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    return cli_kit.commander(capfdbinary, monkeypatch)


@pytest.fixture
def finished(folder: Path, command: Any) -> Path:
    """The directory of a simulated run that has ended."""
    answers = ("--simulator", "output_tokens_median=5", "--simulator", "output_tokens_sigma=0")
    done = command("run", "job.yaml", "--simulate", *answers, "--json")
    assert 0 == done.code, done.err
    return Path(done.document["output_dir"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("stdout", ["> /dev/full", ">&-"])
def test_versions_that_cannot_be_told_are_a_full_disk_as_anywhere(stdout: str) -> None:
    """What cannot be written ends `--version` as it ends every command: exit 7, in words."""
    command = f"{shlex.quote(sys.executable)} -m crun_batch --version {stdout}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert 7 == done.returncode
    assert done.stderr.startswith("standard output ")


def test_version_tells_what_a_report_about_a_bug_needs(command: Any) -> None:
    """`--version`: ours first, then Python and the system, then each library as it is installed."""
    answer = command("--version")
    first, system, *libraries = answer.out.splitlines()
    assert (0, f"crun-batch {version('crun-batch')}") == (answer.code, first)
    assert platform.python_version() in system
    assert [f"{name} {version(name)}" for name in TOLD_LIBRARIES] == libraries


def test_an_unknown_option_or_command_exits_with_2_and_says_which(command: Any) -> None:
    for arguments, named in [
        (("run", "job.yaml", "--yess"), "--yess"),
        (("rum", "job.yaml"), "Did you mean 'run'"),
        (("run",), "JOB"),
        (("run", "job.yaml", "--limit", "0"), "--limit"),
        (("export", "x", "--format", "xml"), "--format"),
    ]:
        answer = command(*arguments)
        assert (2, "") == (answer.code, answer.out)
        assert named in answer.err


def test_init_writes_a_job_that_passes_its_check_and_never_overwrites(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUN_API_KEY", cli_kit.KEY)
    target = tmp_path / "new" / "folder"
    assert 0 == command("init", str(target)).code
    assert ["label-reviews.yaml", "reviews.csv"] == sorted(path.name for path in target.iterdir())
    document = command("check", str(target / "label-reviews.yaml"), "--json").document
    assert ([], [], 10, 10) == (
        document["mistakes"], document["warnings"], document["requests"], document["table"]["selected_rows"]
    )  # fmt: skip
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    (target / "reviews.csv").unlink()
    refused = command("init", str(target))
    assert 2 == refused.code and "label-reviews.yaml" in refused.err
    assert {"label-reviews.yaml": before["label-reviews.yaml"]} == {
        p.name: p.read_bytes() for p in target.iterdir()
    }


def test_init_beside_tables_of_ones_own(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reviews.csv that is there stays; the first job names another table and runs."""
    monkeypatch.chdir(tmp_path)
    for own in ("reviews.csv", "sample-reviews.csv"):
        Path(own).write_text("mine\n")
    assert 0 == command("init").code
    assert ["mine\n"] * 2 == [Path(own).read_text() for own in ("reviews.csv", "sample-reviews.csv")]
    document = command("check", "label-reviews.yaml", "--json").document
    assert (["sample-2-reviews.csv"], [], 10) == (
        document["table"]["files"], document["mistakes"], document["requests"]
    )  # fmt: skip


def test_the_first_job_runs_simulated_without_a_key(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """init, run --simulate, status, sql: what the documentation promises a newcomer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRUN_API_KEY", raising=False)
    command("init")
    ran = command("run", "label-reviews.yaml", "--simulate")
    assert 0 == ran.code and "10: 10 ok" in ran.out and "10 requests for 10 open rows" in ran.err
    assert (tmp_path / "runs" / "label-reviews-simulated" / "results.parquet").exists()
    assert "10: 10 ok" in command("status", "label-reviews.yaml").out
    rows = command("sql", "label-reviews.yaml", "select review_id from results order by 1", "--json").document
    assert [f"r{n:02}" for n in range(1, 11)] == [row["review_id"] for row in rows]


def test_without_a_terminal_a_real_run_needs_yes(real: Path, gateway: SimulatorProcess, command: Any) -> None:
    before = gateway.ledger()["count"]
    answer = command("run", "job.yaml")
    assert 3 == answer.code
    assert "add --yes" in answer.err.lower() and "at most" in answer.err
    assert before == gateway.ledger()["count"]


def test_on_a_terminal_it_asks(real: Path, gateway: SimulatorProcess) -> None:
    """The estimate, the question; anything but yes sends nothing and exits with 3."""
    before = gateway.ledger()["count"]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "crun_batch", "run", "job.yaml"], stdin=slave, stdout=subprocess.PIPE, stderr=slave
    )
    os.close(slave)
    shown = b""
    while b"Start? [y/N]" not in shown:
        shown += os.read(master, 4096)
    assert b"at most" in shown
    os.write(master, b"no\n")
    out, _ = process.communicate()
    os.close(master)
    assert (3, b"", before) == (process.returncode, out, gateway.ledger()["count"])


@pytest.mark.parametrize(("reply", "starts"), [("y", True), ("YES", True), ("", False), ("no", False)])
def test_only_yes_means_yes(reply: str, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """End of input is no yes either."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(reply and f"{reply}\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert starts is Screen().confirm({"name": "job", "open_rows": 0, "requests": 0}, ask=True)


def test_json_is_one_document_and_everything_else_is_on_standard_error(real: Path, command: Any) -> None:
    ran = command("run", "job.yaml", "--yes", "--json")
    assert (0, "finished", 40) == (ran.code, ran.document["status"], ran.document["rows"]["ok"])
    for arguments in (
        ("estimate", "job.yaml"), ("check", "job.yaml"), ("status", "job.yaml"), ("verify", "job.yaml", "--data"),
        ("models",), ("credits", "job.yaml"), ("sql", "job.yaml", "select count(*) from results"),
    ):  # fmt: skip
        answer = command(*arguments, "--json")
        assert 0 == answer.code, answer.err
        assert answer.document is not None
    assert command("schema").document["title"] == "crun_batch job"


def test_an_error_under_json_is_a_document_too(folder: Path, command: Any) -> None:
    (folder / "job.yaml").write_text(JOB.replace("model:", "modle:"))
    answer = command("run", "job.yaml", "--json")
    error = answer.document["error"]
    assert (2, 2) == (answer.code, error["exit_code"])
    assert "modle" in [mistake["key"] for mistake in error["mistakes"]]


def test_a_finished_run_started_again_sends_nothing_and_needs_no_key(
    real: Path, gateway: SimulatorProcess, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 == command("run", "job.yaml", "-y").code
    before = gateway.ledger()["count"]
    monkeypatch.delenv("CRUN_API_KEY")
    again = command("run", "job.yaml")
    assert (0, before) == (again.code, gateway.ledger()["count"])
    assert "nothing to send: all 40 results are there" in again.err


def test_a_finished_simulated_run_started_again_starts_no_simulator(
    finished: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, so nothing has to answer; the port that was taken for it is given back."""
    ports: list[int] = []

    def watched(self: SimulatorProcess) -> SimulatorProcess:
        ports.append(int(listen(self).base_url.split(":")[2].split("/")[0]))
        return self

    listen = SimulatorProcess.listen
    monkeypatch.setattr(SimulatorProcess, "listen", watched)
    monkeypatch.setattr(SimulatorProcess, "start", lambda self: pytest.fail("it was started"))
    again = command("run", "job.yaml", "--simulate")
    assert (0, 1) == (again.code, len(ports))
    assert "nothing to send: all 40 results are there" in again.err
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=1).close()


def test_check_tells_mistakes_of_every_kind_at_once(folder: Path, command: Any) -> None:
    """A wrong key in the job hides neither a wrong template nor a row that cannot be rendered."""
    (folder / "job.yaml").write_text(JOB.replace("name: small", "nmae: small").replace("{{ text }}", "{{ txt }}"))
    answer = command("check", "job.yaml", "--json")
    assert 2 == answer.code
    messages = " ".join(f"{mistake['key']} {mistake['message']}" for mistake in answer.document["mistakes"])
    assert "nmae" in messages and "txt" in messages and "2 mistakes" in answer.err


def test_check_tells_rows_without_a_prompt_in_one_line(folder: Path, command: Any) -> None:
    """Rows with the same reason are one mistake, with their number and the first of them."""
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{n},{'' if n % 2 else 'x'}\n" for n in range(60)))
    answer = command("check", "job.yaml", "--json")
    (mistake,) = answer.document["mistakes"]
    assert (30, 1, "prompt.user") == (answer.document["rejected_rows"], mistake["row"], mistake["key"])
    named = ", ".join(f"row {n} (id {n})" for n in (1, 3, 5, 7, 9))
    assert f"in 30 rows: {named} and 25 more" in mistake["message"]
    assert f"in at least 30 rows: {named} and 25 more" in command("run", "job.yaml", "--yes", "--simulate").err


def test_check_with_mistakes_prints_these_and_nothing_else(folder: Path, command: Any) -> None:
    """No name, model or request that the job does not have; the mistakes are what stands on the screen."""
    (folder / "job.yaml").write_text(JOB.replace("name: small", "nmae: small"))
    answer = command("check", "job.yaml")
    assert (2, "") == (answer.code, answer.out)
    assert answer.err.endswith("job.yaml:2, nmae: unknown key; did you mean name?\n")
    document = command("check", "job.yaml", "--json").document
    assert {"source", "mistakes", "warnings", "rejected_rows", "table"} == set(document)


def test_check_tells_what_identical_requests_would_save(folder: Path, command: Any) -> None:
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{n},same {n % 4}\n" for n in range(40)))
    document = command("check", "job.yaml", "--json").document
    assert {"requests": 36, "is_minimum": False} == document["identical"]
    assert "36 of 40 requests repeat an earlier one" in command("check", "job.yaml").out


def test_check_calls_nobody_and_warns_of_what_run_will_miss(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUN_BASE_URL", "http://127.0.0.1:9/api/v1")
    monkeypatch.delenv("CRUN_API_KEY")
    answer = command("check", "job.yaml", "--set", "params={}", "--set", "limits.concurrency=100000000")
    assert 0 == answer.code
    for word in ("CRUN_API_KEY", "open files", "max_output_tokens"):
        assert word in answer.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "job.yaml", "--limit", "x"), "Error: Invalid value for '--limit': must be a whole number\n"),
        (
            ("run", "job.yaml", "--max-minutes", "x"),
            "Error: Invalid value for '--max-minutes': must be a number\n",
        ),
        (("export", "run", "--format", "xml"), "Error: Invalid value for '--format': 'xml' is not one of 'csv', "),
    ],
)
def test_a_wrong_option_is_told_in_our_words(command: Any, words: Sequence[str], told: str) -> None:
    answer = command(*words)
    assert (2, True) == (answer.code, told in answer.err)


def test_budget_flags_reach_the_job(real: Path, gateway: SimulatorProcess, command: Any) -> None:
    before = gateway.ledger()["count"]
    too_little = command("run", "job.yaml", "--yes", "--max-cost-credits", "0.2")
    assert (3, before) == (too_little.code, gateway.ledger()["count"]) and "--limit" in too_little.err
    stopped = command("run", "job.yaml", "--yes", "--max-cost-credits", "0.5", "--until-budget")
    assert 4 == stopped.code and gateway.ledger()["count"] > before
    (line,) = [line for line in stopped.out.splitlines() if line.startswith("  resume   ")]
    words = shlex.split(line.removeprefix("  resume   "))
    assert ["crun-batch", "run", "job.yaml", "--yes", "--until-budget", "--max-cost-credits"] == words[:-1]
    assert 0 == command(*words[1:]).code


def test_set_limit_output_dir_and_retry(real: Path, command: Any) -> None:
    """Every way to change a job from the command line reaches it, and --retry asks the named endings again."""
    flags = ("--output-dir", "elsewhere", "--limit", "8", "--yes", "--json")
    truncated = command("run", "job.yaml", *flags, "--set", "params.max_output_tokens=2")
    assert (1, 8) == (truncated.code, truncated.document["rows"]["truncated"])
    again = command("run", "job.yaml", *flags, "--set", "params.max_output_tokens=2", "--retry", "truncated")
    assert 16 == again.document["attempts"]
    changed = command("run", "job.yaml", *flags)
    assert 6 == changed.code and "--redo-changed" in changed.err
    redone = command("run", "job.yaml", *flags, "--redo-changed")
    assert (0, 8) == (redone.code, redone.document["rows"]["ok"])


def test_sql_shows_a_table_and_complains_in_duckdbs_words(real: Path, command: Any) -> None:
    command("run", "job.yaml", "--yes")
    shown = command("sql", "runs/small", "select status, sum(cost_credits) as cost from results group by all").out
    assert ["status", "cost"] == shown.splitlines()[0].split() and shown.endswith("(1 row)\n")
    assert 2 == command("sql", "job.yaml", "select nothing from results").code
    assert 2 == command("sql", "job.yaml", "drop table results").code


def test_verify_of_a_damaged_run_exits_with_6(real: Path, command: Any) -> None:
    ran = command("run", "job.yaml", "--yes")
    assert 0 == ran.code, ran.err
    sound = command("verify", "job.yaml", "--data")
    assert 0 == sound.code, sound.out
    part = next((real / "runs/small/attempts").glob("*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    damaged = command("verify", "job.yaml", "--data")
    assert 6 == damaged.code and part.name in damaged.out


def test_export_to_standard_output_and_to_a_file(real: Path, command: Any) -> None:
    command("run", "job.yaml", "--yes")
    lines = command("export", "job.yaml", "--format", "jsonl").out.splitlines()
    assert lines == command("export", "job.yaml", "--format", "jsonl", "-o", "-").out.splitlines()
    assert {str(n) for n in range(40)} == {str(json.loads(line)["id"]) for line in lines}
    written = command("export", "job.yaml", "--format", "csv", "--output", "out.csv")
    assert (0, "") == (written.code, written.out) and "40 rows" in written.err
    assert 41 == len((real / "out.csv").read_text().splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "job.yaml", "--format", "csv", "-o"),
        ("report", "job.yaml", "-o"),
        ("compare", "job.yaml", "--export-disagreements"),
    ],
)
def test_a_file_that_is_named_gets_its_folder(arguments: tuple[str, ...], real: Path, command: Any) -> None:
    """`-o nodir/x` makes the folder; where a file stands in its way, that is said."""
    command("run", "job.yaml", "--yes", "--set", "sweep={params.temperature: [0, 1]}")
    assert 0 == command(*arguments, "no/such/folder.csv").code
    assert (real / "no/such/folder.csv").exists()
    refused = command(*arguments, "job.yaml/folder.csv")
    assert 7 == refused.code and "job.yaml/folder.csv: its folder cannot be made" in refused.err


def test_models_and_credits_need_no_job(real: Path, command: Any) -> None:
    assert "deepseek-chat" in command("models").out
    assert re.fullmatch(r"[\d,.]+ credits left \(http://127.0.0.1:\d+/api/v1\)\n", command("credits").out)


def test_a_refused_key_exits_with_5(real: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUN_API_KEY", "a-wrong-key")
    for arguments in (("models",), ("credits",), ("run", "job.yaml", "--yes")):
        answer = command(*arguments)
        assert 5 == answer.code
        assert "a-wrong-key" not in answer.out + answer.err


def test_a_reader_that_goes_away_makes_no_noise(real: Path, command: Any) -> None:
    command("run", "job.yaml", "--yes")
    line = f"{shlex.quote(sys.executable)} -m crun_batch export job.yaml --format jsonl | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert (0, 10, "") == (done.returncode, len(done.stdout), done.stderr)


def test_a_bug_is_one_sentence_with_70_and_no_secret_even_in_its_traceback(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(cli_kit.KEY)

    monkeypatch.setattr("crun_batch.preflight.check.check_job", broken)
    quiet = command("check", "job.yaml")
    assert 70 == quiet.code and "a bug of ours (KeyError)" in quiet.err and "Traceback" not in quiet.err
    monkeypatch.setenv("CRUN_BATCH_DEBUG", "1")
    loud = command("check", "job.yaml")
    assert 70 == loud.code and "Traceback" in loud.err and cli_kit.KEY not in loud.err


def test_key_value_arguments_and_kinds() -> None:
    assert {"a.b": "1", "c": "x=y"} == pairs(["a.b=1", "c=x=y"], "--set")
    assert frozenset({"truncated", "timeout"}) == kinds("truncated, timeout")
    for wrong in ("novalue", "=1"):
        with pytest.raises(InputError, match="KEY=VALUE"):
            pairs([wrong], "--set")
    with pytest.raises(InputError, match="truncated"):
        kinds("trunctated")


@pytest.mark.parametrize(
    ("arguments", "command_to_go_on"),
    [
        (["/x/crun-batch", "run", "j.yaml"], "crun-batch run j.yaml --yes"),
        (["crun-batch", "run", "my job.yaml", "-y"], "crun-batch run 'my job.yaml' -y"),
        (["crun-batch", "run", "j.yaml", "--pilot", "9", "--limit", "5"], "crun-batch run j.yaml --limit 5 --yes"),
        (["crun-batch", "run", "j.yaml", "--pilot=9", "--yes"], "crun-batch run j.yaml --yes"),
        (["/x/crun_batch/__main__.py", "run", "j"], "python -m crun_batch run j --yes"),
        (["crun-batch", "run", "j", "--retry", "failed"], "crun-batch run j --retry failed --yes"),
        (["crun-batch", "run", "j", "--retry", "timeout, all"], "crun-batch run j --retry 'timeout, all'"),
        (["crun-batch", "run", "j", "--retry=all", "--pilot", "2"], "crun-batch run j --retry=all"),
        (["crun-batch", "run", "j", "--retry=all", "--yes"], "crun-batch run j --retry=all --yes"),
    ],
)
def test_the_command_that_goes_on(arguments: list[str], command_to_go_on: str) -> None:
    """It can be typed as it is, does not ask again, and is no pilot."""
    assert command_to_go_on == resume_command(arguments)


@pytest.fixture
def slow(real: Path, gateway: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The gateway, taking its time."""
    gateway.change(latency_seconds=0.1)
    yield gateway
    gateway.change(latency_seconds=0)


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "crun_batch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def results_of(folder: Path) -> dict[int, tuple[Any, ...]]:
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    return {
        row["id"]: (row["status"], row["output_text"], row["request_hash"], row["cost_credits"]) for row in rows
    }


def test_interrupted_and_gone_on_equals_uninterrupted_and_nothing_is_sent_twice(
    slow: SimulatorProcess, real: Path, command: Any
) -> None:
    """Ctrl-C in the middle, then to the end: the same rows as in one go, one charge for each."""
    before = slow.ledger()["count"]
    process = started("run", "job.yaml", "--yes")
    wait_until(lambda: slow.ledger()["count"] >= before + 8, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert 130 == process.returncode, err
    assert "Ctrl-C: no new requests; waiting for" in err and "Traceback" not in err
    assert "resume   python -m crun_batch run job.yaml --yes" in out
    assert 0 == command("run", "job.yaml", "--yes").code
    assert before + 40 == slow.ledger()["count"]
    assert 0 == command("run", "job.yaml", "--yes", "--output-dir", "one-go").code
    assert results_of(real / "one-go") == results_of(real / "runs/small")


def test_status_of_a_running_then_killed_run(slow: SimulatorProcess, real: Path, command: Any) -> None:
    """From another process: running while it runs; after kill -9 killed, with every request in flight named.

    They are in the bill of a report too, before a session has booked them.
    """
    before = slow.ledger()
    slow.change(latency_seconds=0.4)
    process = started("run", "job.yaml", "--yes")
    wait_until(lambda: slow.ledger()["count"] >= before["count"] + 16, process)
    running = command("status", "job.yaml", "--json").document
    assert ("running", None) == (running["status"], running["exit_code"])
    assert str(process.pid) in running["holder"] and 8 <= running["rows"]["ok"] < 40
    assert 40 == sum(running["rows"][name] for name in ("ok", "open"))
    process.kill()
    process.communicate()
    killed = command("status", "job.yaml", "--json").document
    assert ("killed", None) == (killed["status"], killed["holder"])
    assert killed["in_flight"] == killed["unknown_attempts"] == len(killed["suspects"]) > 0
    assert "all of them, once the run goes on: " in command("status", "job.yaml").out
    assert "once the run goes on" not in command("status", "job.yaml", "--json").out
    [report] = command("report", "job.yaml", "--json").document["runs"]
    unknown = [line for line in report["bill"] if line["outcome"] == "unknown"]
    held = sum(Decimal(line["held"]["credits"]) for line in unknown)
    assert (killed["in_flight"], Decimal(killed["held_credits"])) == (sum(x["requests"] for x in unknown), held)
    assert killed["requests"] == sum(line["requests"] for line in report["bill"]) and 0 == report["in_flight"]
    shown = ShownRun(Path(killed["output_dir"]), HeldRoom())
    assert killed["in_flight"] == shown.failures()["requests_count"]
    shown.rows.close()
    slow.change(latency_seconds=0)
    finished = command("run", "job.yaml", "--yes", "--json").document
    assert ("finished", killed["in_flight"]) == (finished["status"], finished["unknown_attempts"])
    bill = Decimal(slow.ledger()["charge_credits"]) - Decimal(before["charge_credits"])
    known, held = Decimal(finished["cost_credits"]), Decimal(finished["held_credits"])
    assert known <= bill <= known + held


def test_twice_ends_now_and_names_what_was_in_flight(slow: SimulatorProcess, real: Path) -> None:
    slow.change(latency_seconds=60)
    process = started("run", "job.yaml", "--yes", "--json")
    wait_until(lambda: slow.stats()["in_flight"] >= 8, process)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "SIGTERM: no new requests; waiting for 8 in flight" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert 143 == process.returncode
    assert "ending now, 8 in flight" in err and "Traceback" not in err
    assert 8 == json.loads(out)["unknown_attempts"]


def test_a_terminal_that_closes_is_an_orderly_end(slow: SimulatorProcess, real: Path) -> None:
    """SIGHUP, told twice as shell and system do, and nowhere to write: replies in flight are kept, exit 143."""
    slow.change(latency_seconds=0.5)
    before = slow.ledger()["count"]
    keyboard, screen = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(screen, termios.TIOCSCTTY, 0)

    words = [sys.executable, "-m", "crun_batch", "run", "job.yaml", "--yes"]
    process = subprocess.Popen(words, stdin=screen, stdout=screen, stderr=screen, preexec_fn=own_terminal)
    os.close(screen)
    wait_until(lambda: slow.stats()["in_flight"] >= 8, process)
    os.close(keyboard)
    process.send_signal(signal.SIGHUP)
    assert 143 == process.wait(30)
    run = open_run("runs/small")
    assert {"done"} == set(run.attempts().collect()["outcome"])
    assert slow.ledger()["count"] - before == run.attempts().collect().height < 40


def test_what_nohup_started_outlives_the_terminal(slow: SimulatorProcess, real: Path) -> None:
    """SIGHUP that somebody chose to ignore stays ignored."""
    words = ["nohup", sys.executable, "-m", "crun_batch", "run", "job.yaml", "--yes"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: slow.stats()["in_flight"] >= 8, process)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert 0 == process.returncode, out


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-", "2>/dev/full"])
def test_a_finished_run_whose_words_nobody_can_read_exits_as_it_did(
    gateway: SimulatorProcess, real: Path, command: Any, closed: str
) -> None:
    """No exit 70, and no file of the run gets the number of a closed stream: the journal holds no words."""
    words = f"{sys.executable} -m crun_batch run job.yaml --yes {closed}"
    assert [0, 0] == [subprocess.run(words, shell=True, check=False).returncode for _ in range(2)]
    assert 0 == command("verify", "job.yaml", "--data").code


def test_a_signal_that_a_library_in_c_meets_first_ends_the_command_as_any_other() -> None:
    """Such a library may print the error that it finds, which ends the process there and then."""
    inside = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(1000)]"
    command = f"ctypes.pythonapi.PyRun_SimpleString({inside.encode()!r})"
    border = "import ctypes; from crun_batch.cli.border import guarded"
    words = f"{border}; guarded(lambda: {command}, ['run', 'job.yaml'])"
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert 143 == ended.returncode
    assert ended.stderr.startswith("SIGTERM: ended; what was recorded stays; resume with: ")


def test_a_signal_that_a_library_makes_an_error_of_is_still_a_signal() -> None:
    """A model that pydantic is about to build is then "a wrong schema", which is no bug of ours."""
    script = """
import os, signal
from crun_batch.cli.border import guarded

def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        [None for _ in range(1000)]
    except BaseException as met:
        raise ValueError("a wrong schema") from met

raise SystemExit(guarded(command, ["run", "job.yaml"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 130 == ended.returncode
    assert ended.stderr.startswith("Ctrl-C: ended; what was recorded stays; resume with: ")


def test_a_signal_while_a_library_in_c_is_loaded_ends_the_command_as_any_other() -> None:
    """An exception in the first steps of such a library may end the process by SIGSEGV, as in orjson's."""
    script = """
import signal, sys, time
from crun_batch.cli.border import guarded

class Signalling:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "dataclasses":
            signal.raise_signal(signal.SIGINT)

def command():
    sys.meta_path.insert(0, Signalling)
    sys.modules.pop("dataclasses", None)
    assert "orjson" not in sys.modules
    import orjson
    print(orjson.dumps("loaded").decode(), flush=True)
    time.sleep(60)

raise SystemExit(guarded(command, ["run", "job.yaml"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (130, '"loaded"\n') == (ended.returncode, ended.stdout), ended.stderr
    assert ended.stderr.startswith("Ctrl-C: ended; what was recorded stays; resume with: ")


@pytest.mark.parametrize(
    ("ends", "its_last_step"),
    [
        ("del loaded", "Loaded.__del__"),
        ("import colorsys", "_get_module_lock.<locals>.cb"),
        ("held.add(loaded); del loaded", "WeakSet.__init__.<locals>._remove"),
        ("kept[loaded] = 1; del loaded", "WeakKeyDictionary.__init__.<locals>.remove"),
        ("kept_too[1] = loaded; del loaded", "WeakValueDictionary.__init__.<locals>.remove"),
    ],
)
def test_a_signal_that_comes_as_an_object_ends_is_not_lost(ends: str, its_last_step: str) -> None:
    """The interpreter shows an exception that is raised then, and goes on."""
    script = f"""
import signal, sys, time, weakref
from crun_batch.cli.border import guarded

class Loaded:
    def __del__(self):
        pass

def signalling(frame, event, _):
    if event == "call" and frame.f_code.co_qualname == {its_last_step!r}:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

def command():
    loaded, kept, kept_too = Loaded(), weakref.WeakKeyDictionary(), weakref.WeakValueDictionary()
    held = weakref.WeakSet()
    sys.setprofile(signalling)
    {ends}
    assert sys.getprofile() is None
    time.sleep(10)

raise SystemExit(guarded(command, ["run", "job.yaml"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    words = "Ctrl-C: ended; what was recorded stays; resume with: -c run job.yaml --yes\n"
    assert (130, words) == (ended.returncode, ended.stderr)


@pytest.mark.parametrize(
    ("loading", "code", "words"),
    [
        ("typer", -signal.SIGINT, ""),
        ("crun_batch.cli.border", -signal.SIGINT, ""),
        ("asyncio", 130, "Ctrl-C: ended; what was recorded stays; resume with: -c run job.yaml --yes\n"),
    ],
)
def test_ctrl_c_while_a_command_loads_what_it_needs_ends_it_without_a_traceback(
    loading: str, code: int, words: str
) -> None:
    """As long as nothing has begun, by the signal itself, as any program."""
    script = f"""
import signal, sys
from crun_batch.__main__ import main

class Signalling:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {loading!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Signalling)
sys.argv[1:] = ["run", "job.yaml"]
raise SystemExit(main())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (code, words) == (ended.returncode, ended.stderr)


def test_a_signal_while_it_reads_and_estimates_ends_it_cleanly(real: Path, gateway: SimulatorProcess) -> None:
    """Before anything is sent: exit 130, no traceback, and the command to go on."""
    before = gateway.ledger()["count"]
    (real / "rows.csv").write_text(cli_kit.rows(60_000))
    process = started("run", "job.yaml", "--yes")
    wait_until((real / "runs/small/journal").is_dir, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (130, before) == (process.returncode, gateway.ledger()["count"]), err
    assert "Traceback" not in err
    assert "Ctrl-C: ended; what was recorded stays; resume with: python -m crun_batch run job.yaml --yes" in err


def reference() -> str:
    """Each command's help, as the command line prints it at 80 columns."""
    group = typer.main.get_command(cli.app)
    parts = []
    for name, one in group.commands.items():  # type: ignore[attr-defined]
        if name == "simulator":
            from crun_batch.simulator.command import parser

            text = parser().format_help()
        else:
            context = typer.Context(one, info_name=f"crun-batch {name}", terminal_width=80)
            context.help_option_names = ["--help", "-h"]
            text = one.get_help(context)
        parts.append(f"### {name}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def test_the_reference_is_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/command-line.md holds every command's help; UPDATE_DOCS=1 writes its generated part anew."""
    monkeypatch.setenv("COLUMNS", "80")
    head, mark, _ = DOCS.read_text(encoding="utf-8").partition(MARK)
    text = f"{head}{mark}\n{reference()}"
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(text, encoding="utf-8")
    assert text == DOCS.read_text(encoding="utf-8")


def test_every_command_is_documented() -> None:
    names = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert names == set(re.findall(r"^### (\S+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
