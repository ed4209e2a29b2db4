"""The variants of a job, their prompts compiled: each prompt once, and the mistakes of all of them together."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.sweep import Variation
from crun_batch.load.prompt.render import Renderer
from crun_batch.load.table.table import Table
from crun_batch.workload.packed_request import refuse_varying_heads
from crun_batch.workload.request import Variant


def compiled_variants(varied: Sequence[Variation], table: Table) -> tuple[Variant, ...]:
    """One for each variation, in their order. Raises InputError with the mistakes of all prompts."""
    renderers = _renderers(varied, table)
    variants = tuple(
        Variant(index, one.name, one.job, renderer, one.axes)
        for index, (one, renderer) in enumerate(zip(varied, renderers, strict=True))
    )
    refuse_varying_heads(variants)
    return variants


def _renderers(varied: Sequence[Variation], table: Table) -> list[Renderer]:
    """One for each prompt. Raises InputError with the mistakes of all prompts."""
    made: list[tuple[Variation, Renderer]] = []
    mistakes: dict[Mistake, None] = {}
    for one in varied:
        if any(other.job.prompt == one.job.prompt for other, _ in made):
            continue
        try:
            renderer = Renderer(
                one.job.prompt, schema=table.schema, folders=one.job.folders, job_source=one.job.source
            )
        except InputError as error:
            placed = map(one.job.document.placed, error.mistakes)
            mistakes |= dict.fromkeys(_of_variant(mistake, one, varied) for mistake in placed)
        else:
            made.append((one, renderer))
    if mistakes:
        raise InputError(list(mistakes))
    return [next(renderer for other, renderer in made if other.job.prompt == one.job.prompt) for one in varied]


def _of_variant(mistake: Mistake, one: Variation, varied: Sequence[Variation]) -> Mistake:
    """Names the variant where there are several; where all have the same prompt, it is the job's mistake."""
    if all(other.job.prompt == one.job.prompt for other in varied):
        return mistake
    return structs.replace(mistake, message=f"{mistake.message} (sweep, variant {one.name})")
