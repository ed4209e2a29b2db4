"""The other clients' environment: made once, beside the user's caches, with the versions pinned here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PINNED = ("aiohttp==3.14.5", "uvloop==0.23.0", "openai==3.54.0", "lm_deluge==0.0.168")


def peers_python(cache: Path) -> Path:
    """The interpreter of the peers' environment; makes it at the first call (needs the package index)."""
    folder = cache / "peers"
    python = folder / "bin" / "python"
    stamp = folder / "pinned.txt"
    if stamp.exists() and stamp.read_text().split() == list(PINNED):
        return python
    print(f"making an environment for the other clients in {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINNED], check=True)
    stamp.write_text("\n".join(PINNED))
    return python
