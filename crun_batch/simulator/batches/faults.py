"""What can go wrong with batches, by name, and whom it hits: drawn by seed and name, the same on every machine.

of a call    upload_lost   the file is kept, the reply does not come
create_lost   the batch is accepted and runs, the reply does not come
create_failed the call is answered with 500, and no batch is there
of a batch   failed_lines  every line is answered with 500: there is an error file and no output file
output_gone   what it brought can no longer be read: 404
shuffled      its lines come in another order
of a line    line_errors   answered with 500, not charged
missing       done and charged, and in no file
doubled       there twice
expired       this share of a batch's lines, the last ones, are not done before the window closes
"""

from __future__ import annotations

import hashlib

from crun_batch.simulator.settings import Settings


def share_of(settings: Settings, kind: str, name: str) -> float:
    """A number in [0, 1) that belongs to this kind of fault and this call, batch or line."""
    text = f"{settings.seed} {kind} {name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64


def hits(settings: Settings, kind: str, name: str) -> bool:
    """Whether the fault hits this call, batch or line."""
    rate = settings.batch_faults.get(kind, 0.0)
    return rate > 0 and share_of(settings, kind, name) < rate
