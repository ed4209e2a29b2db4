"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import resource

from crun_batch.errors import InputError, Mistake

OWN_DESCRIPTORS = 256
"""File descriptors that the rest of the process needs: tables, journal, sealed files, libraries."""


def ensure_file_descriptors(connections: int) -> None:
    """Raise this process's soft limit of open files to what that many connections need.

    Raises InputError (key `limits.concurrency`) where the hard limit does not allow it.
    """
    needed = connections + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            Mistake(
                f"{connections:,} requests in flight need {needed:,} open files, this system allows {hard:,}; "
                f"set it to {max(hard - OWN_DESCRIPTORS, 1):,} or less, or raise the limit (ulimit -Hn)",
                key="limits.concurrency",
            )
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
