"""What is handed out: the package as it is built, installed and run alone; container, schedulers, their words."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import crun_batch

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCHEDULERS = ROOT / "examples" / "schedulers"
MOST_LINES = 30


def ran(*words: str | Path, cwd: Path, **environ: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert 0 == done.returncode, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


# --- built, installed, run alone ---


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    yield folder


def both(folder: Path) -> tuple[Path, Path]:
    """sdist and wheel; nothing else is built."""
    found = {path.suffix: path for path in folder.iterdir() if path.is_file()}
    assert {".gz", ".whl"} == found.keys()
    return found[".gz"], found[".whl"]


def lowest(requirement: str) -> str | None:
    """A constraint to the lowest minor version that a requirement allows."""
    found = re.match(r"([\w.-]+)>=([\d.]+)", requirement)
    return f"{found[1]}=={found[2]}.*" if found else None


@pytest.mark.dist
def test_sdist_and_wheel_pass_the_checks_of_the_index(built: Path) -> None:
    sdist, wheel = both(built)
    ran(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=built)
    ran(sys.executable, "-m", "check_wheel_contents", wheel, cwd=built)


@pytest.mark.dist
def test_sdist_and_wheel_hold_what_they_should_and_nothing_of_this_machine(built: Path) -> None:
    sdist, wheel = both(built)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    assert any(name.endswith("/share/man/man1/crun-batch.1") for name in names)
    needed = {"crun_batch/py.typed", "crun_batch/reporting/page.html", "crun_batch/page/static/index.html"}
    assert needed <= set(names)
    wrong = re.compile(r"(^|/)(\.venv|__pycache__|runs|\.hypothesis|\.git|\.env)(/|$)|\.pyc$")
    assert [] == [name for name in (*names, *members) if wrong.search(name)]


def interpreters() -> dict[str, str]:
    """The Pythons that the package is for, as far as this machine has them; this one first."""
    found = {f"3.{sys.version_info.minor}": sys.executable}
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 15):
        placed = [str(path / "bin" / "python") for path in sorted(kept.glob(f"3.{minor}.*"))]
        for path in (*placed, shutil.which(f"python3.{minor}")):
            if path is not None and works(path, "--version"):
                found.setdefault(f"3.{minor}", path)
    return found


def works(program: str, asked: str) -> bool:
    """Whether a program is there and answers."""
    if shutil.which(program) is None:
        return False
    try:
        return subprocess.run([program, asked], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


PYTHONS = interpreters()


@pytest.mark.dist
@pytest.mark.parametrize(
    ("version", "versions"), [(next(iter(PYTHONS)), "lowest"), *((version, "newest") for version in PYTHONS)]
)
def test_the_wheel_alone_runs_a_job_in_an_empty_environment(
    built: Path, tmp_path: Path, version: str, versions: str
) -> None:
    """As `pip install` leaves it, without a checkout: with the newest and with the lowest versions it allows."""
    wheel = next(built.glob("*.whl"))
    home = tmp_path / "environment"
    ran(PYTHONS[version], "-m", "venv", home, cwd=tmp_path)
    python, program = home / "bin" / "python", home / "bin" / "crun-batch"
    constraints = tmp_path / "constraints.txt"
    lines = [lowest(one) for one in PROJECT["dependencies"]] if versions == "lowest" else []
    constraints.write_text("".join(f"{line}\n" for line in lines if line))
    ran(python, "-m", "pip", "install", "-q", "--constraint", constraints, wheel, cwd=tmp_path)
    ran(program, "init", "first", cwd=tmp_path)
    job = next((tmp_path / "first").glob("*.yaml"))
    environ = {"HOME": str(tmp_path), "CRUN_API_KEY": ""}
    assert "crun-batch" in ran(program, "--version", cwd=tmp_path, **environ)
    ran(program, "check", job, cwd=tmp_path, **environ)
    summary = json.loads(ran(program, "run", job, "--simulate", "--json", cwd=tmp_path, **environ))
    assert ("finished", 0, 10) == (summary["status"], summary["exit_code"], summary["rows"]["ok"])
    ran(program, "report", summary["output_dir"], cwd=tmp_path, **environ)
    where = ran(python, "-c", "import crun_batch; print(crun_batch.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(home))


# --- the container ---

CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction, lines joined."""
    joined = re.sub(r"\\\n\s*", " ", CONTAINER)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_container_is_of_fixed_images_and_runs_as_nobody_in_particular() -> None:
    found = instructions()
    images = [rest.split()[0] for name, rest in found if name == "FROM"]
    assert [] == [image for image in images if ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")]
    last = [name for name, _ in found][max(n for n, (name, _) in enumerate(found) if name == "FROM") :]
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert "root" not in [rest for name, rest in found if name == "USER"]
    assert "ADD" not in [name for name, _ in found]
    assert all("--no-cache-dir" in rest for name, rest in found if name == "RUN" and "pip " in rest)


def test_the_container_copies_what_is_there_and_starts_the_program() -> None:
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            assert [] == [source for source in rest.split()[:-1] if not (ROOT / source).exists()]
        if name == "ENTRYPOINT":
            assert json.loads(rest)[0] in PROJECT["scripts"]


def test_the_container_builds_where_there_is_a_builder(tmp_path: Path) -> None:
    builder = next((one for one in ("podman", "buildah", "docker") if works(one, "info")), None)
    if builder is None:
        pytest.skip("there is no builder of containers here")
    ran(builder, "build", "-f", ROOT / "Containerfile", "-t", "crun-batch-test", ROOT, cwd=tmp_path)
    assert "crun-batch" in ran(builder, "run", "--rm", "crun-batch-test", "--version", cwd=tmp_path)


# --- schedulers ---


@pytest.mark.parametrize("path", sorted(SCHEDULERS.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_for_a_scheduler_is_short_and_calls_us_as_we_are(path: Path) -> None:
    """Every argument that it gives is one that `run` takes."""
    text = path.read_text(encoding="utf-8")
    assert MOST_LINES >= len(text.splitlines())
    calls = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "crun_batch.run"
    ]
    (call,) = calls
    names = {keyword.arg for keyword in call.keywords}
    known = {*inspect.signature(crun_batch.run).parameters, *crun_batch.RunOptions.__struct_fields__}
    assert set() == names - known
    assert (ROOT / ast.literal_eval(call.args[0])).exists()


def test_the_dagster_asset_is_materialised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dagster = pytest.importorskip("dagster")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    monkeypatch.syspath_prepend(str(SCHEDULERS))
    import dagster_asset

    config = {"ops": {"labelled_reviews": {"config": {"simulate": True}}}}
    done = dagster.materialize([dagster_asset.labelled_reviews], run_config=config)
    assert done.success


def test_the_airflow_dag_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    pytest.importorskip("airflow.sdk")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    monkeypatch.syspath_prepend(str(SCHEDULERS))
    import airflow_dag

    made = airflow_dag.label_reviews()
    (task,) = made.tasks
    assert Path(task.python_callable(simulate=True)).is_dir()


def test_the_workflow_calls_commands_that_there_are() -> None:
    """Each line of the GitHub example is one of ours, with options that it has."""
    import typer

    from crun_batch.cli import commands
    from crun_batch.cli.command_tree import by_name, command_tree

    tree = by_name(command_tree(typer.main.get_command(commands.app)))
    text = (SCHEDULERS / "github-actions.yml").read_text(encoding="utf-8")
    lines = re.findall(r"run: crun-batch (.*)", text)
    assert len(lines) >= 4
    for line in lines:
        name, *words = line.split()
        options = {one for switch in tree[name].switches for one in switch.names}
        assert [] == [word for word in words if word.startswith("--") and word not in options]
