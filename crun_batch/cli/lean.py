"""Arrow as it is where numpy and pandas are not installed: up to a second and 70 MB less for most commands.

Arrow loads numpy with itself, and pandas when it first makes an array of values or a value of a time, to look for
what is theirs. Nothing of ours is. Only code of the user's own (a grader's function, a class as output schema) may
ask for them: a job that names some gets all of Arrow. Its file systems of clouds, 3 MB, are loaded where a bucket
is opened (`load/table/bucket.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

READ_TABLES = frozenset(
    (
        *("check", "estimate", "run", "coordinator", "show", "report", "compare", "sql", "verify", "export"),
        *("models", "credits", "schema"),
    )
)
"""The commands that load Arrow."""
OWN_CODE = ("python", "function", "output_schema", "extends")
"""One of these words stands in each job file, or among the arguments, that runs code of the user's own, or may."""
_ABSENT = ("numpy", "pandas")
_LATER = ("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs")


def load_arrow_for(arguments: Sequence[str]) -> None:
    """Load Arrow for the command that these arguments name. Loaded already, it stays as it is."""
    if not READ_TABLES.intersection(arguments[:1]) or not {"--help", "-h"}.isdisjoint(arguments):
        return
    if sys.modules.keys().isdisjoint(("pyarrow", *_ABSENT)) and not _may_run_own_code(arguments):
        _load_arrow()


def _load_arrow() -> None:
    sys.meta_path.insert(0, _NotInstalled)
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.fs

        moment = pa.timestamp("us", tz="UTC")
        pa.Array.from_buffers(moment, 1, [None, pa.py_buffer(bytes(8))])[0].as_py()  # looks for pandas, this once
    finally:
        sys.meta_path.remove(_NotInstalled)


class _NotInstalled:
    """A finder that finds nothing of these names, wherever it is."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """None: ask the others."""
        if name in (*_ABSENT, *_LATER):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _may_run_own_code(arguments: Sequence[str]) -> bool:
    return any(word in text for text in (*arguments, *_files_among(arguments)) for word in OWN_CODE)


def _files_among(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments[1:]:
        try:
            if Path(argument).suffix.lower() in (".yaml", ".yml", ".toml", ".json"):
                yield Path(argument).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue  # no file: the command itself says so, where it should be one
