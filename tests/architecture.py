"""The structure of crun_batch, read from its own text: who imports whom, what is how large.

`python tests/architecture.py` prints the figures of docs/design.md for this tree; with the path of another
checkout, that tree's.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORDER = (
    "__main__",
    "cli",
    "__init__",
    "mapping",
    "api",
    "scale",
    "pipeline",
    "page",
    "reporting",
    "session",
    "preflight",
    "scoring",
    "state",
    "workload",
    "options",
    "console",
    "vocabulary",
    "stats",
    "load",
    "pricing",
    "gateway",
    "store",
    "simulator",
    "records",
    "interpreter",
    "errors",
    "paths",
)
"""A package, or a module at the top, imports only what stands below it in this list."""
CLOSED = ("stats", "load", "pricing", "gateway", "store")
"""These know only `BELOW_ALL` and themselves."""
BELOW_ALL = ("records", "interpreter", "errors", "paths")
INDEPENDENT = "simulator"
"""Knows only `interpreter` and `errors`: a stand-in that shares our code shares our mistakes."""


@dataclass(frozen=True)
class Import:
    """One arrow: a module of ours imports another, at a line."""

    importer: str
    imported: str
    line: int


class Tree:
    """The modules of a checkout by dotted name, and the arrows between them, those inside functions too."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.paths = {_name(path.relative_to(root)): path for path in sorted((root / "crun_batch").rglob("*.py"))}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Parsed when first asked for: it takes seconds and much memory."""
        return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.paths.items()}

    @cached_property
    def imports(self) -> list[Import]:
        """All arrows."""
        return [one for name in self.paths for one in self._imports_of(name)]

    def _imports_of(self, name: str) -> Iterator[Import]:
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = self._from(name, node)
            else:
                continue
            ours = {module for module in modules if module.split(".")[0] == "crun_batch"} - {name}
            yield from (Import(name, module, node.lineno) for module in sorted(ours))

    def _from(self, name: str, node: ast.ImportFrom) -> list[str]:
        """The modules that `from x import a, b` reaches: x.a where that is a module, else x."""
        package = name if self.paths[name].name == "__init__.py" else name.rpartition(".")[0]
        up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*up, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in self.paths else base for alias in node.names]

    def imported_by(self, name: str) -> set[str]:
        """The modules of ours that a module imports."""
        return {one.imported for one in self.imports if one.importer == name}

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        """Every function with its place, `path:line name`."""
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{self.paths[name].relative_to(self.root)}:{node.lineno} {node.name}", node

    def classes(self) -> dict[str, list[str]]:
        """Class name -> the modules that define one of that name."""
        found: dict[str, list[str]] = {}
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(name)
        return found

    def cycles(self) -> list[list[str]]:
        """The sets of modules that import each other in a circle, each sorted."""
        reached = {name: self._reached(name) for name in self.paths}
        circles = {
            tuple(sorted(other for other in reached[name] if name in reached[other]))
            for name in self.paths
            if name in reached[name]
        }
        return [list(circle) for circle in sorted(circles)]

    def _reached(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.imported_by(name))
        while waiting:
            module = waiting.pop()
            if module in self.paths and module not in found:
                found.add(module)
                waiting += self.imported_by(module)
        return found


def place_of(module: str) -> str:
    """The package, or top module, that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def broken_arrow(one: Import) -> str | None:
    """Why this import is not allowed, in a sentence; None where it is."""
    above, below = place_of(one.importer), place_of(one.imported)
    if above == below:
        return None
    if below not in ORDER or above not in ORDER:
        return f"{one.importer}:{one.line}: {above} or {below} has no place in ORDER (tests/architecture.py)"
    arrow = f"{one.importer}:{one.line} imports {one.imported}"
    if ORDER.index(below) <= ORDER.index(above):
        return f"{arrow}: {below} stands above {above}; let a value be passed in"
    if above in CLOSED and below not in BELOW_ALL:
        return f"{arrow}: {above} knows only {', '.join(BELOW_ALL)} and itself"
    if above == INDEPENDENT and below not in ("interpreter", "errors"):
        return f"{arrow}: a stand-in that shares our code shares our mistakes"
    return None


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the last line."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def figures(tree: Tree) -> dict[str, object]:
    """What docs/design.md tells of a tree."""
    sizes = sorted(lines_of(node) for _, node in tree.functions())
    counts = {name: len(tree.imported_by(name)) for name in tree.paths}
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in tree.paths.items()}
    places: dict[str, int] = {}
    for name, number in lines.items():
        places[place_of(name)] = places.get(place_of(name), 0) + number
    biggest = max(places, key=lambda place: places[place])
    return {
        "modules": len(tree.paths),
        "lines": sum(lines.values()),
        "functions, 90th percentile of lines": sizes[len(sizes) * 9 // 10],
        "longest function, lines": sizes[-1],
        "internal imports per module, mean": round(sum(counts.values()) / len(counts), 2),
        "internal imports per module, most": f"{max(counts.values())} ({max(counts, key=lambda n: counts[n])})",
        "import cycles": len(tree.cycles()),
        "biggest folder": f"{biggest}, {places[biggest] / sum(lines.values()):.0%} of the lines",
        "class names that mean two things": sum(len(homes) > 1 for homes in tree.classes().values()),
    }


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    for what, value in figures(Tree(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)).items():
        print(f"{what:40} {value}")
