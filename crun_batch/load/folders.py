"""Where a job's files may lie: its own folder, and the folders that the user allows (`--allow-path`).

What a row or a statement names is read there only, whatever links and `..` it goes through: a job file or a
table from somebody else must not send other files of this machine to a gateway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from crun_batch.errors import InputError, Mistake
from crun_batch.paths import is_folder

ADVICE = "allow its folder with --allow-path DIR (in Python: allow_paths=[DIR]), or move the file"


class Folders:
    """Relative paths start from `base`; read is below it, and below each of `allowed`."""

    def __init__(self, base: Path, allowed: Sequence[Path] = ()) -> None:
        self.base = base
        self.allowed = tuple(allowed)

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """The folders as they are, without links."""
        return tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in (self.base, *self.allowed)))

    def resolved(self, path: Path) -> Path | None:
        """The path without links, where it is inside; None where it leads outside. Raises ValueError."""
        real = Path(os.path.realpath(self.base / path))
        return real if any(real.is_relative_to(root) for root in self.roots) else None


def checked_folders(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The folders of --allow-path. Raises InputError for what is no folder."""
    folders = tuple(Path(path).expanduser() for path in paths)
    wrong = [
        Mistake(f"--allow-path takes a folder that exists, not '{one}'") for one in folders if not is_folder(one)
    ]
    if wrong:
        raise InputError(wrong)
    return tuple(folder.resolve() for folder in folders)
