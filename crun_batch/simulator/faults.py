"""What can go wrong between a client and a gateway, and when it does.

A fault hits by rate (settings `faults`: kind -> share of the attempts) or by a marker in the prompt:
`[[fault:500]]` the first attempt of this request, `[[fault:500*2]]` the first two, `[[fault:500*always]]` all;
several markers follow one another. Drawing depends on seed, request and attempt only.

    400 408 429 500 ... 599, 455   refused with this HTTP status, in the endpoint's error shape; not charged
    code_402 code_455 ...          HTTP 200 with this code in CRUN's outer shape; not charged
    content_filter                 400 with the code `content_filter`; not charged
    reset_before, close_before     the connection is reset or closed before anything was done; not charged
    error_in_200                   HTTP 200, but the body (or the stream, half-way) brings an error; not charged
    reset_after, close             done and charged, then the connection is reset or closed without a byte
    stall, stall_body              done and charged, then silence: before the first byte, or half-way
    truncated                      charged; the connection is closed half-way through the body
    cut_stream                     charged; a stream (or body) that ends in an orderly way, but half-way
    malformed                      charged; whole as HTTP, but the JSON is cut in the middle
    empty                          charged; HTTP 200 with an empty body
    drip                           charged; the body comes byte by byte
    wrong_type                     charged; the right body under `Content-Type: text/html`
    finish_WORD                    charged; the finish reason is WORD, as it is spelt (finish_null: it is null)
    usage_zero usage_negative      charged; the reply's counts are all 0, negative, fractional, NaN, texts, huge,
    usage_fractional usage_nan     or not there
    usage_text usage_huge
    usage_missing
    usage_zeros_last               charged; a stream tells its counts and then, last, zeros (a body: zeros)
"""

from __future__ import annotations

import hashlib
import re

from crun_batch.errors import InputError, Mistake
from crun_batch.simulator import spoiling
from crun_batch.simulator.packs import PACK_FAULTS
from crun_batch.simulator.settings import Settings

BEFORE = frozenset({"reset_before", "close_before", "error_in_200", "content_filter"})
"""Kinds that keep the request from being done, besides HTTP statuses and body codes."""
AFTER = frozenset(
    {
        "reset_after",
        "close",
        "stall",
        "stall_body",
        "truncated",
        "cut_stream",
        "malformed",
        "empty",
        "drip",
        "wrong_type",
    }
)
"""Kinds that hit the reply: the request was done and charged."""
BATCH_FAULTS = frozenset(
    {
        "upload_lost",
        "create_lost",
        "create_failed",
        "failed_lines",
        "output_gone",
        "shuffled",
        "line_errors",
        "missing",
        "doubled",
        "expired",
    }
)
"""What goes wrong with batches, see `batches.faults`; the rate of each counts by itself."""
_NAMES = sorted(BEFORE | AFTER | spoiling.KINDS)
_MARKER = re.compile(r"\[\[fault:([A-Za-z_0-9.\-]+)(?:\*(\d+|always))?\]\]")
_STATUS = re.compile(r"[45]\d\d")
_CODE = re.compile(r"code_(\d{3})")
_ALWAYS = 10**9


def status_of(kind: str) -> int | None:
    """The HTTP status that a kind stands for, if it does."""
    return int(kind) if _STATUS.fullmatch(kind) else None


def code_of(kind: str) -> int | None:
    """The body code that a kind stands for, if it does."""
    found = _CODE.fullmatch(kind)
    return int(found[1]) if found else None


def is_kind(kind: str) -> bool:
    """Whether there is such a fault."""
    return kind in BEFORE or is_charged(kind) or status_of(kind) is not None or code_of(kind) is not None


def is_charged(kind: str) -> bool:
    """Whether the fault hits the reply: the request was done and charged."""
    return kind in AFTER or spoiling.is_spoiling(kind)


def check_kinds(settings: Settings) -> None:
    """Raise InputError for kinds of faults that do not exist, and for rates that together pass 1."""
    faults = settings.faults
    mistakes = [
        Mistake(
            f"unknown fault {kind!r}; known are HTTP statuses, code_NNN, finish_WORD and {', '.join(_NAMES)}",
            key="faults",
        )
        for kind in faults
        if not is_kind(kind)
    ]
    if sum(faults.values()) > 1 + 1e-9:
        mistakes.append(Mistake("the rates of all faults together are above 1", key="faults"))
    mistakes += [
        Mistake(f"unknown fault {kind!r}; known are {', '.join(sorted(BATCH_FAULTS))}", key="batch_faults")
        for kind in settings.batch_faults
        if kind not in BATCH_FAULTS
    ]
    mistakes += [
        Mistake(f"unknown fault {kind!r}; known are {', '.join(sorted(PACK_FAULTS))}", key="pack_faults")
        for kind in settings.pack_faults
        if kind not in PACK_FAULTS
    ]
    if mistakes:
        raise InputError(mistakes)


def drawn(settings: Settings, request: bytes, attempt: int) -> str | None:
    """The fault that hits this attempt (from 0) of a request, by the rates; `request` is its digest."""
    text = b"%d %d " % (settings.seed, attempt) + request
    share = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
    for kind, rate in settings.faults.items():
        if share < rate:
            return kind
        share -= rate
    return None


def marked(text: str, attempt: int) -> str | None:
    """The fault that a marker in the text orders for this attempt (from 0); unknown kinds are no marker."""
    for kind, times in _MARKER.findall(text):
        if not is_kind(kind):
            continue
        count = _ALWAYS if times == "always" else int(times or 1)
        if attempt < count:
            return str(kind)
        attempt -= count
    return None
