"""What is wrong with a run directory, told of a place that may hold none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crun_batch.errors import InputError
from crun_batch.paths import is_folder

if TYPE_CHECKING:
    from crun_batch.store.verify import Finding


def findings_of(path: Path, *, data: bool) -> list[Finding]:
    """What `verify` finds in a run directory. Raises InputError where there is no run."""
    from crun_batch.store.verify import verify

    if not is_folder(path / "journal"):
        raise InputError(f"{path}: there is no run here (no journal)")
    return verify(path, data=data)
