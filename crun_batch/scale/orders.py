"""What each of several workers is told to do, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crun_batch.console.progress import Progress
from crun_batch.load.job.places import Argument
from crun_batch.options import RunOptions, Shard
from crun_batch.scale.messages import Order
from crun_batch.store.directory import SIMULATED
from crun_batch.workload.sharding import OUTPUT_DIR
from crun_batch.workload.workload import Workload


def _nobody(_: object) -> None:
    """Nobody is told."""


def options_of_order(
    order: Order, *, say: Callable[[str], None] = _nobody, watch: Callable[[Progress], None] | None = None
) -> RunOptions:
    """How a job is run that an order names, where no person and no signal is: its shard aside."""
    return RunOptions(
        overrides={**order.overrides, **order.arguments},
        allow_paths=order.allow_paths,
        simulate=bool(order.simulators_at),
        simulators_at=order.simulators_at,
        deadline=order.deadline,
        otel=order.otel,
        handle_signals=False,
        say=say,
        watch=watch,
    )


def shard_places(folder: Path, count: int, *, simulate: bool) -> list[Path]:
    """Where the run directories of so many shards are, beside the job's own."""
    ending = SIMULATED if simulate else ""
    name = folder.name.removesuffix(ending)
    return [folder.with_name(Shard(number, count).folder_name(name) + ending) for number in range(1, count + 1)]


def texts_of(overrides: Mapping[str, object]) -> dict[str, Any]:
    """Those that are read as texts of --set are."""
    return {key: value for key, value in overrides.items() if not isinstance(value, Argument)}


def arguments_of(overrides: Mapping[str, object]) -> dict[str, Argument]:
    """Those that Python code gave."""
    return {key: value for key, value in overrides.items() if isinstance(value, Argument)}


def orders_for(file: Path, workload: Workload, places: Sequence[Path], options: RunOptions) -> list[Order]:
    """An order for each shard. All of them meet the same simulators, where it is simulated."""
    at = [one.endpoint.base_url for one in workload.job.at_each_endpoint] if options.simulate else []
    return [
        Order(
            job=str(file.resolve()),
            shard=(number, len(places)),
            overrides=texts_of(options.overrides),
            arguments={
                **arguments_of(options.overrides),
                OUTPUT_DIR: Argument("output_dir", str(place).removesuffix(SIMULATED if at else "")),
            },
            allow_paths=tuple(map(str, options.allow_paths)),
            simulators_at=tuple(at),
            otel=options.otel,
            figures=options.metrics_port is not None,
            version=version("crun-batch"),
        )
        for number, place in enumerate(places, start=1)
    ]
