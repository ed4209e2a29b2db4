"""What a report about a bug needs to say. Loads nothing of ours, and no library to ask for its version."""

from __future__ import annotations

import platform
from importlib.metadata import version

TOLD_LIBRARIES = ("polars", "pyarrow", "duckdb", "pydantic", "httpx", "httptools", "minijinja", "genai-prices")
"""Distributions whose versions belong there."""


def versions_text() -> str:
    """Ours, then Python and the system, then the libraries as they are installed, a line each."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    lines = [
        f"crun-batch {version('crun-batch')}",
        f"{platform.python_implementation()} {platform.python_version()}, {system}",
        *(f"{name} {version(name)}" for name in TOLD_LIBRARIES),
    ]
    return "\n".join(lines)
