"""What a report about a bug needs to say. Loads nothing of ours, and no library to ask for its version.

A distribution's version stands in the name of its folder of metadata: one look through `sys.path` finds them all,
where asking `importlib.metadata` for each takes longer than the interpreter's own start.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

TOLD_LIBRARIES = ("polars", "pyarrow", "duckdb", "pydantic", "httpx", "httptools", "minijinja", "genai-prices")
"""Distributions whose versions belong there."""
_METADATA = ".dist-info"


def versions_text() -> str:
    """Ours, then Python and the system, then the libraries as they are installed, a line each."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    installed = installed_versions(("crun-batch", *TOLD_LIBRARIES))
    lines = [
        f"crun-batch {installed['crun-batch']}",
        f"{platform.python_implementation()} {platform.python_version()}, {system}",
        *(f"{name} {installed[name]}" for name in TOLD_LIBRARIES),
    ]
    return "\n".join(lines)


def installed_versions(names: tuple[str, ...]) -> Mapping[str, str]:
    """The version of each distribution; `not installed` where there is none."""
    wanted = {_normal(name): name for name in names}
    found: dict[str, str] = {}
    for folder in sys.path:
        for entry in _entries(folder or "."):
            name, _, version = entry.removesuffix(_METADATA).partition("-")
            if entry.endswith(_METADATA) and (wanted_name := wanted.get(_normal(name))) is not None:
                found.setdefault(wanted_name, version)
    return {name: found.get(name, "not installed") for name in names}


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - pathlib takes as long to load as all the rest
    except OSError:  # an archive, or a folder that is gone: it holds none of ours
        return []


def _normal(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()
