"""Laws of the house: who may import whom, how large a thing may be, what no file may hold."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from architecture import ORDER, ROOT, Import, Tree, broken_arrow, lines_of, place_of

import crun_batch
import crun_batch.simulator

PURE = ("pricing", "stats", "console")
FORBIDDEN_IN_PURE = {"socket", "httpx", "asyncio", "subprocess", "time", "tqdm"}
DRAWERS = {"utils", "common", "helpers", "misc"}
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_MODULE = 400
MOST_PARAMETERS = 7
MOST_INTERNAL_IMPORTS = 12
TREE = Tree()
MODULES = sorted(TREE.paths.values())
PACKAGE = ROOT / "crun_batch"


def test_a_package_imports_only_what_stands_below_it():
    assert [] == [sentence for one in TREE.imports if (sentence := broken_arrow(one)) is not None]


def test_an_arrow_that_points_up_is_told_in_a_sentence():
    """The check can fail, and says what to do."""
    up = Import("crun_batch.store.journal", "crun_batch.session.rows", 3)
    assert "session stands above store" in str(broken_arrow(up))
    beside = Import("crun_batch.pricing.costs", "crun_batch.store.disk", 3)
    assert "pricing knows only records, interpreter, errors, paths and itself" in str(broken_arrow(beside))
    assert "has no place in ORDER" in str(broken_arrow(Import("crun_batch.drawer.x", "crun_batch.errors", 3)))


PUBLIC = {"crun_batch": set(crun_batch.__all__), "crun_batch.simulator": set(crun_batch.simulator.__all__)}
"""What a user may import: the modules and, of each, the names."""
WORDS = ("errors", "console", "paths")
"""Of the package itself only the command line knows these besides: exit codes, words, what is at a path."""


def not_public(imports: Iterable[tuple[str, str]]) -> list[str]:
    """Those of (module, name) that are ours and no public name; an empty name is the module itself."""
    ours = [(module, name) for module, name in imports if module.split(".")[0] == "crun_batch"]
    return [
        f"{module}.{name}".rstrip(".")
        for module, name in ours
        if module not in PUBLIC or (name and name not in PUBLIC[module] and f"{module}.{name}" not in PUBLIC)
    ]


def imported(path: Path) -> list[tuple[str, str]]:
    """Every (module, name) that a file imports, inside functions too; and what it names as `crun_batch.x`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "crun_batch"
        ):
            found.append(("crun_batch", node.attr))
    return found


def test_benchmarks_and_examples_import_public_names_only():
    """They measure and show what a user can do; what reaches deeper is in tests/measurements."""
    scripts = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    wrong = {str(path.relative_to(ROOT)): not_public(imported(path)) for path in scripts}
    assert {} == {path: names for path, names in wrong.items() if names}


def test_the_command_line_imports_public_names_and_words_only():
    wrong = {}
    for path in (PACKAGE / "cli").rglob("*.py"):
        names = [one for one in imported(path) if place_of(one[0]) not in (*WORDS, "cli")]
        wrong[path.name] = not_public(one for one in names if one != ("crun_batch", "cli"))
    assert {} == {path: names for path, names in wrong.items() if names}


def test_a_name_that_is_not_public_is_seen():
    """The two checks can fail."""
    assert ["crun_batch.store.disk.Disk"] == not_public([("crun_batch.store.disk", "Disk"), ("polars", "col")])
    assert ["crun_batch.pipeline", "crun_batch.simulator.parser"] == not_public(
        [("crun_batch", "pipeline"), ("crun_batch.simulator", "parser"), ("crun_batch", "simulator")]
    )


def test_every_package_has_its_place_in_the_order():
    assert {place_of(name) for name in TREE.paths} == set(ORDER)


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count: they hide a circle, they do not break it."""
    assert [] == TREE.cycles()


def test_no_module_knows_half_the_house():
    counts = {name: len(TREE.imported_by(name)) for name in TREE.paths}
    assert {} == {name: number for name, number in counts.items() if number > MOST_INTERNAL_IMPORTS}


def test_a_class_name_means_one_thing():
    assert {} == {name: homes for name, homes in TREE.classes().items() if len(homes) > 1}


@pytest.mark.parametrize("package", PURE)
def test_a_pure_package_opens_nothing_and_reads_no_clock(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        for path in sorted((PACKAGE / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in FORBIDDEN_IN_PURE
    ]
    assert [] == wrong


def test_what_is_at_a_path_is_asked_in_one_way():
    """Newer Pythons say "nothing" where the system does not say: see `paths`. An entry of a scan has its kind."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} asks {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("exists", "is_file", "is_dir", "is_symlink", "isfile", "isdir", "islink", "lexists")
        and not ast.unparse(node.func.value).startswith("entry")
    ]
    assert [] == wrong


TOP_LEVEL = {
    *("crun_batch", "jobs", "tests", "examples", "benchmarks", "docs", ".ci"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *("Makefile", "Containerfile", "constraints.txt", ".gitignore"),
}


def test_nothing_stands_at_the_top_that_a_test_left_there():
    """What is ignored, and what whoever runs this puts there, is not the repository's."""
    asked = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False) if has_git() else None
    if listed is None or listed.returncode != 0:
        pytest.skip("no checkout that git can list")
    assert {name.split("/")[0] for name in listed.stdout.split("\0") if name} == TOP_LEVEL


def has_git():
    return shutil.which("git") is not None and (ROOT / ".git").exists()


def test_functions_are_short():
    sizes = {place: lines_of(node) for place, node in TREE.functions()}
    assert {} == {place: lines for place, lines in sizes.items() if lines > MOST_LINES_OF_A_FUNCTION}


def test_what_takes_many_parameters_is_a_record():
    counts = {
        place: len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        for place, node in TREE.functions()
        if not node.name.startswith("__init__")
    }
    shown = (
        "crun_batch/cli/commands.py",
        "crun_batch/cli/reading.py",
        "crun_batch/cli/coordinating.py",
        "crun_batch/api/",
    )  # their parameters are what --help and help() show
    assert {} == {
        place: count for place, count in counts.items() if count > MOST_PARAMETERS and not place.startswith(shown)
    }


def test_modules_are_short():
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {} == {path: count for path, count in lines.items() if count > MOST_LINES_OF_A_MODULE}


def test_no_folder_or_module_is_a_drawer():
    assert [] == [str(path) for path in PACKAGE.rglob("*") if path.stem in DRAWERS]


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


def test_every_package_says_what_it_is_for():
    packages = [name for name, path in TREE.paths.items() if path.name == "__init__.py"]
    assert [] == [name for name in packages if not ast.get_docstring(TREE.trees[name])]
