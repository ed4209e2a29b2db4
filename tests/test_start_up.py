"""What each command loads: time and memory of a start are the libraries that it waits for, so they are counted.

Seconds vary with the machine and are measured by benchmarks/startup.py; which modules a command imports does not.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crun_batch.cli.versions import versions_text
from crun_batch.simulator import start_simulator

HEAVY = (
    *("polars", "pyarrow", "numpy", "pandas", "duckdb", "pydantic", "typer", "rich", "minijinja", "ruamel"),
    *("jsonschema_rs", "httpx", "httptools", "tenacity", "tqdm", "asyncio", "uvloop", "genai_prices", "openai"),
    *("pyarrow.dataset", "pyarrow.acero", "pyarrow._s3fs", "urllib.request", "crun_batch.simulator"),
    *("crun_batch.gateway.pool", "crun_batch.preflight", "crun_batch.reporting"),
)
"""What takes long to load: libraries, and packages of ours that bring some with them."""

JOB = """
name: small
input: {table: rows.csv, id: id}
model: gpt-5.4
prompt: {user: "{{ text }}"}
output: {dir: job, columns: [text]}
"""
SWEEP = """
name: sweep
input: {table: rows.csv, id: id, where: "id <> 'no 3'"}
model: gpt-5.4
prompt: {user: "{{ text }}"}
output: {dir: sweep, columns: [text, gold]}
repeats: 2
sweep: {params.temperature: [0.1, 1]}
score: [{name: right, grader: exact, expected: "{{ gold }}"}]
"""
ROWS = 20
ARROW = {"typer", "pydantic", "pyarrow"}
JOB_KEYS = {*ARROW, "ruamel"}
READS_A_JOB = {*JOB_KEYS, "minijinja", "crun_batch.preflight"}
ASKS = {"asyncio", "uvloop", "httptools", "tenacity", "urllib.request"}
SENDS = {*ASKS, "genai_prices", "crun_batch.gateway.pool"}
RUNS = {"asyncio", "uvloop", "crun_batch.reporting", "crun_batch.simulator"}
READS_A_RUN = {*ARROW, "crun_batch.reporting"}
LOADED_BY: dict[str, set[str]] = {
    "--help": {"typer"},
    "run --help": {"typer", "pydantic"},
    "init new": {"typer", "pydantic"},
    "schema": JOB_KEYS,
    "runs": {"typer", "pydantic"},
    "status job-simulated": {"typer", "pydantic"},
    "status sweep-simulated --json": {"typer", "pydantic"},
    "check job.yaml": READS_A_JOB,
    "check sweep.yaml": READS_A_JOB | {"duckdb"},
    "estimate job.yaml": READS_A_JOB | ASKS | {"genai_prices"},
    "estimate sweep.yaml --simulate": READS_A_JOB | ASKS | {"genai_prices", "duckdb", "crun_batch.simulator"},
    "run job.yaml --simulate": READS_A_JOB | RUNS,
    "run sweep.yaml --simulate": READS_A_JOB | RUNS | {"duckdb"},
    "run job.yaml --simulate --output-dir new-run": READS_A_JOB | RUNS | SENDS,
    "run sweep.yaml --simulate --output-dir new-sweep": READS_A_JOB | RUNS | SENDS | {"duckdb"},
    "show job-simulated 'no 1'": READS_A_RUN | JOB_KEYS | {"duckdb", "minijinja"},
    "sql job-simulated 'select 1'": READS_A_RUN | {"duckdb"},
    "sql sweep-simulated 'select count(*) from results'": READS_A_RUN | {"duckdb"},
    "verify job-simulated --data": ARROW | {"duckdb"},
    "report sweep-simulated": READS_A_RUN | {"duckdb", "minijinja"},
    "compare sweep-simulated": READS_A_RUN | {"polars"},
    **{f"export sweep-simulated --format {form} -o {form}": READS_A_RUN for form in ("csv", "jsonl", "parquet")},
    "export sweep-simulated --format html -o html": READS_A_RUN,
    "export sweep-simulated --format openai-batch -o replies": READS_A_RUN | {"duckdb"},
    **{
        f"export sweep-simulated --format {form} -o {form}": READS_A_RUN | JOB_KEYS | {"duckdb", "minijinja"}
        for form in ("chat-jsonl", "openai-batch-requests")
    },
    "export job-simulated --format csv --where \"status = 'ok'\" -o chosen.csv": READS_A_RUN | {"duckdb"},
    "models": JOB_KEYS | ASKS | {"genai_prices", "crun_batch.preflight"},
    "credits job.yaml": JOB_KEYS | ASKS | {"crun_batch.preflight"},
}
"""Command -> what it waits for, of all that is heavy: pydantic at least, with which typer reads parameters.

pandas, where it is installed, is loaded by Arrow as soon as it is asked to make an array: by no command.
"""


def test_the_versions_are_told_before_anything_is_loaded() -> None:
    """`--version` alone is answered at the door, and in the same words as by the commands."""
    script = "import sys\nfrom crun_batch.__main__ import main\nsys.argv[1:] = ['--version']\ncode = main()\n"
    script += f"print(code, sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"{versions_text()}\n0 []\n" == done.stdout


@pytest.fixture(scope="module", autouse=True)
def gateway() -> Iterator[None]:
    """What `models`, `credits` and an estimate ask."""
    with start_simulator() as simulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUN_BASE_URL", simulator.base_url)
        patch.setenv("CRUN_API_KEY", "ak_sim_0123456789")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs that have run to their ends against the simulator."""
    folder = tmp_path_factory.mktemp("jobs")
    lines = (f"no {n},question {n},{'yes' if n % 2 else 'no'}\n" for n in range(ROWS))
    (folder / "rows.csv").write_text("id,text,gold\n" + "".join(lines))
    for name, job in (("job", JOB), ("sweep", SWEEP)):
        (folder / f"{name}.yaml").write_text(job)
        assert 0 == loaded_by(f"run {name}.yaml --simulate", folder)[0]
    return folder


def loaded_by(command: str, folder: Path) -> tuple[int, set[str]]:
    """The exit code of a command in a process of its own, and what of all that is heavy it had loaded."""
    script = (
        "import sys, contextlib, io, shlex\nfrom crun_batch.cli import commands as cli\n"
        "with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())): "
        f"code = cli.main(shlex.split({command!r}))\n"
        f"print(code, *sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder)
    assert 0 == done.returncode, done.stderr
    code, *names = done.stdout.split()
    return int(code), set(names)


@pytest.mark.parametrize(("command", "loaded"), LOADED_BY.items())
def test_a_command_loads_only_what_it_needs(command: str, loaded: set[str], folder: Path) -> None:
    """Each command waits for the libraries of its row, and for no other that is heavy: pandas for none of them."""
    assert (0, loaded) == loaded_by(command, folder)
