"""What is at a path, asked of every Python alike: what the system refuses to say is an error, not "nothing".

From Python 3.14 on `Path.exists` and its like say no where they may not look, and where the disk or its server
fails (EACCES, EIO, ESTALE): a run would be taken for none, and be paid again. Here such an OSError passes.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def is_there(path: Path) -> bool:
    """Whether there is anything; of a link, at its end."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether there is a file, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_link(path: Path) -> bool:
    """Whether there is a symbolic link, wherever it leads."""
    mode = _mode(path, follow_symlinks=False)
    return mode is not None and stat.S_ISLNK(mode)


def _mode(path: Path, *, follow_symlinks: bool = True) -> int | None:
    """None: nothing is there. A name with a null byte is one of nothing; links in a circle lead nowhere."""
    try:
        return path.stat(follow_symlinks=follow_symlinks).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
