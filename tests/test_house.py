"""Laws of the house: who may import whom, how large a thing may be, what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "crun_batch"
ROOMS = ("load", "plan", "send", "store", "tell")
SHARED = ("crun_batch.records", "crun_batch.errors")
CORRIDOR = ("run.py", "corridor", "cli.py", "cli_output.py", "cli_screen.py", "cli_options.py", "cli_border.py")
PURE = ("plan", "tell")
FORBIDDEN_IN_PURE = {"socket", "httpx", "pyreqwest", "asyncio", "subprocess", "time", "tqdm"}
NO_ROOM_NAMES = {"utils", "common", "helpers", "misc"}
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_MODULE = 400
MOST_PARAMETERS = 7
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path):
    """Every module that a file imports, with its line; relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), node.lineno


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "crun_batch" else None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_records_errors_and_itself_and_nothing_else_of_ours(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}: a room knows only records, errors and itself; "
        "let the corridor bring the value"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name, line in imports_of(path)
        if name.startswith("crun_batch") and name not in SHARED and room_of(name) != room
    ]
    assert [] == wrong


def test_the_simulator_knows_no_room():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}: a stand-in that shares our code shares our mistakes"
        for path in sorted((PACKAGE / "simulator").rglob("*.py"))
        for name, line in imports_of(path)
        if name.startswith("crun_batch") and room_of(name) not in ("simulator", "errors")
    ]
    assert [] == wrong


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_opens_nothing_and_reads_no_clock(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name, line in imports_of(path)
        if name.split(".")[0] in FORBIDDEN_IN_PURE
    ]
    assert [] == wrong


def test_only_the_corridor_enters_rooms():
    outside = [
        path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in (*ROOMS, *CORRIDOR, "simulator")
    ]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in outside
        for name, line in imports_of(path)
        if room_of(name) in ROOMS
    ]
    assert [] == wrong


def functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_functions_are_short():
    sizes = {place: (node.end_lineno or 0) - node.lineno + 1 for place, node in functions()}
    assert {} == {place: lines for place, lines in sizes.items() if lines > MOST_LINES_OF_A_FUNCTION}


def test_what_takes_many_parameters_is_a_record():
    counts = {
        place: len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        for place, node in functions()
        if not node.name.startswith("__init__")
    }
    commands = ("crun_batch/cli.py",)  # a command's options are its parameters: typer reads them there
    assert {} == {
        place: count
        for place, count in counts.items()
        if count > MOST_PARAMETERS and not place.startswith(commands)
    }


def test_modules_are_short():
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {} == {path: count for path, count in lines.items() if count > MOST_LINES_OF_A_MODULE}


def test_no_folder_or_module_is_a_drawer():
    assert [] == [str(path) for path in PACKAGE.rglob("*") if path.stem in NO_ROOM_NAMES]


def test_no_broad_except_swallows():
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"}
            keeps = any(isinstance(inner, ast.Raise) for inner in ast.walk(node)) or node.name is not None
            if broad and not keeps:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [] == wrong


def test_no_file_names_a_machine_or_a_download_address():
    """Pins are by version: no lock file, no registry's host, no absolute path of somebody's machine."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    address = re.compile(r"https?://\S+(\.whl\b|/simple\b|/-/\S+\.tgz)|files\.python" + r"hosted|registry\.npm")
    machine = re.compile(r"(?<![\w.])/(home|Users|root|work)/\w+")
    wrong = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".parquet", ".png", ".svg"} or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if address.search(line) or (machine.search(line) and name != "tests/test_house.py"):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert [] == wrong


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_door_sign(room):
    sign = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert sign is not None and " to " in sign
