"""A Dagster asset: the labelled table, with its costs as metadata; materialising it again sends what is new."""

import dagster

import crun_batch


class Labelling(dagster.Config):
    """How it is run."""

    simulate: bool = False
    max_cost_usd: float = 5


@dagster.asset
def labelled_reviews(config: Labelling) -> dagster.MaterializeResult:
    """The rows of the run, beside its Parquet files."""
    done = crun_batch.run(
        "jobs/label-reviews.yaml",
        max_cost_usd=config.max_cost_usd,
        simulate=config.simulate,
        handle_signals=False,
    )
    if done.exit_code not in (0, 1):
        raise dagster.Failure(done.stop_reason)
    facts = {"rows": done.summary["rows"]["ok"], "cost_usd": str(done.cost_usd), "directory": str(done.directory)}
    return dagster.MaterializeResult(metadata=facts)
