"""Who writes to a run directory now, as anybody may ask without being in the way."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from crun_batch.store.directory import LOCK_NAME, linked_lock


def holder(path: Path) -> str | None:
    """The process that has the run's lock, in its own words ("process 12 on host, started ..."); None: nobody.

    The lock is tried as one of many readers and given back at once; a session that starts in these microseconds
    tries again.
    """
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise linked_lock(path) from error
        raise
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 300, 0).decode(errors="replace").strip() or "another process"
    else:
        return None
    finally:
        os.close(lock)


def signed_by(path: Path) -> str | None:
    """Who has opened the run last, in its own words, whether or not it is still there; None: nobody ever did.

    Read without the lock, so it tells of who writes there also where locks do not reach another host.
    """
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return os.pread(lock, 300, 0).decode(errors="replace").strip() or None
    finally:
        os.close(lock)
