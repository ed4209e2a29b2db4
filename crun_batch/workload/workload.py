"""What is to be done: a job, its table and its variants together, ready to be read row by row.

Owns how many units there are and where each has its place. Nothing is sent or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from msgspec import Struct

from crun_batch.load.job.job import Job
from crun_batch.load.job.output_schema import Column, arrow_type
from crun_batch.load.prompt.render import Renderer
from crun_batch.load.prompt.score_templates import ScoreTemplates
from crun_batch.load.table.lookup import find_row
from crun_batch.load.table.table import Table
from crun_batch.options import Shard
from crun_batch.records import Row, UnitSlots
from crun_batch.store.schema import RunSchema
from crun_batch.workload.request import Variant
from crun_batch.workload.target import Judge, Target


def _runs_elsewhere() -> None:
    """A gateway that is not ours to start."""


class ShardOfRows(Struct, frozen=True):
    """One of several parts of the selected rows, and how these were divided."""

    which: Shard
    columns: tuple[str, ...]
    """Rows with the same values in these columns stay together; empty: each row goes by its id."""
    undivided: Table
    """The selected rows of all shards."""
    caps: tuple[str, ...] = ()
    """What a cap of the budget means here, a sentence for each."""
    remarks: tuple[str, ...] = ()
    """What else whoever starts it must know."""

    def document(self) -> dict[str, Any]:
        """What tells it from any other part of the same rows."""
        return {"number": self.which.number, "count": self.which.count, "by": list(self.columns) or "id"}


class Workload(Struct, frozen=True):
    """Everything that is to be done, ready to be read row by row."""

    job: Job
    table: Table
    variants: tuple[Variant, ...]
    carried: Mapping[str, str]
    """New name in the results -> input column."""
    templates: ScoreTemplates
    """Of the graders."""
    output: Column | None = None
    """The column of the answers under an output schema, the same for all variants."""
    judges: tuple[Judge, ...] = ()
    shard: ShardOfRows | None = None
    """Which of several shards of the rows `table` gives; None: all of them."""
    start_gateway: Callable[[], object] = _runs_elsewhere
    """Called before the first request: starts the simulator where that is the gateway."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The variants, then the judges."""
        return (*self.variants, *self.judges)

    def part_of(self, amount: int) -> int:
        """What of an amount that is the whole job's is for these rows: a shard's part, or all of it."""
        return amount if self.shard is None else self.shard.which.share_of(amount)

    @property
    def repeats(self) -> int:
        return self.job.repeats

    @property
    def renderers(self) -> list[Renderer]:
        """Each once."""
        return list({id(variant.renderer): variant.renderer for variant in self.variants}.values())

    def close(self) -> None:
        """End the child processes that templates needed."""
        for renderer in self.renderers:
            renderer.close()
        self.templates.close()

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read of each row."""
        used = [name for variant in self.variants for name in variant.renderer.columns]
        return tuple(dict.fromkeys([*used, *self.carried.values()]))

    @property
    def selected_units(self) -> int:
        return self.table.selected_rows * self.slots.per_row

    @property
    def unit_slots(self) -> int:
        """Units that the source could hold: where the done marks have their places."""
        return self.table.source_rows * self.slots.per_row

    @property
    def slots(self) -> UnitSlots:
        """Which place each of them has."""
        return UnitSlots(len(self.variants), self.repeats)

    def row(self, row_id: int | str, columns: Sequence[str]) -> Row | None:
        """The row of that id with the values of these columns; None where the table has no such id any more."""
        return find_row(self.table, row_id, columns)

    def run_schema(self) -> RunSchema:
        table = self.table
        fields = [table.schema.field(column).with_name(name) for name, column in self.carried.items()]
        return RunSchema(
            id_name=table.id_name,
            id_type=table.id_type,
            carried=pa.schema(fields),
            axes={variant.name: variant.axes for variant in self.variants},
            scores=tuple(spec.name for spec in self.job.score),
            output=None if self.output is None else arrow_type(self.output),
        )
