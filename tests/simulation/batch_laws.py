"""What must hold of the batch lane, whatever was played: `batches` plays it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import polars as pl

from crun_batch.store.batches import read_batches
from crun_batch.store.directory import RunDirectory
from crun_batch.store.verify import verify

from .batches import BatchPlayed, BatchScenario


def broken_laws(scenario: BatchScenario, played: BatchPlayed) -> Iterator[str]:
    """Each law that does not hold, as a sentence."""
    twice = {name: count for name, count in played.world.created.items() if count > 1}
    if twice:
        yield f"requests of which more than one batch was made: {twice}"
    results = played.run.results().collect()
    if results.height != scenario.rows or results["row"].n_unique() != scenario.rows:
        yield f"{results.height} results of {scenario.rows} rows"
    yield from _broken_live_laws(scenario, played)
    if played.world.asked_again:
        yield f"asked for again, though it is on the disk: {played.world.asked_again}"
    bearable = 500 + 20 * scenario.rows + played.world.now / 10  # each may be a batch that is looked for
    if played.world.all_calls > bearable:
        yield f"{played.world.all_calls:,} calls in {played.world.now:,.0f} s"
    attempts = played.run.attempts().filter(pl.col("endpoint") == "batch").collect()
    charges = [entry for entry in played.world.charges if entry.batch is not None]
    read = attempts.filter(pl.col("outcome") == "done").height
    known = attempts["cost_credits"].sum() or Decimal(0)
    held = attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or Decimal(0)
    charged = Decimal(sum(entry.charge_pico for entry in charges)) / 10**12
    if not known <= charged <= known + held:
        yield f"the books say {charged}, known {known}, held {held}"
    readable = [entry for entry in charges if entry.outcome != "missing" and not played.world.is_gone(entry)]
    if read != len(readable):
        yield f"{len(readable)} replies could be read, {read} were"
    if len(readable) == len(charges) and known != charged:
        yield f"nothing is lost, and the books say {charged}, the run {known}"
    known_ids = {entry.batch_id for entry in read_batches(RunDirectory(played.run.directory)).values()}
    unknown = played.world.accepted & {entry.batch for entry in charges} - known_ids
    is_lost = played.world.came_too_late or {"output_gone", "missing"} & set(scenario.faults)
    if unknown and not is_lost:
        yield f"batches that the run knows nothing of: {unknown}"
    yield from (
        f"verify: {finding}" for finding in verify(played.run.directory, data=True) if finding.severity == "error"
    )
    left = [path.name for path in RunDirectory(played.run.directory).batch_files.glob("*")]
    if left:
        yield f"raw files are left: {left}"


def _broken_live_laws(scenario: BatchScenario, played: BatchPlayed) -> Iterator[str]:
    """Of what went live: only in that lane, never what a batch has done and told of, and at the books' price.

    A power cut may take the start records of requests that were on their way: the books know more then.
    """
    attempts = played.run.attempts().filter(pl.col("endpoint").is_null()).collect()
    charges = [entry for entry in played.world.charges if entry.batch is None]
    if charges and scenario.lane == "batch":
        yield f"{len(charges)} requests went live"
    told = [one for one in played.world.charges if one.batch is not None and one.outcome != "missing"]
    twice = {one.request_sha256 for one in told if not played.world.is_gone(one)}
    twice &= {one.request_sha256 for one in charges}
    if twice:
        yield f"{len(twice)} requests that a batch had done went live too"
    known = attempts["cost_credits"].sum() or Decimal(0)
    held = attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or Decimal(0)
    charged = Decimal(sum(entry.charge_pico for entry in charges)) / 10**12
    if known > charged or (charged > known + held and not played.power_cuts):
        yield f"the books say {charged} of what went live, known {known}, held {held}"
