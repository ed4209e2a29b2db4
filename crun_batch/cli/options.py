"""The arguments that several commands take, and the values that are written in them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crun_batch.cli.output import out
from crun_batch.errors import InputError, Mistake


def _versions(wanted: bool) -> None:
    if wanted:
        from crun_batch.cli.versions import versions_text

        out(versions_text())
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_versions, is_eager=True, help="Show the versions that a bug report needs."
    ),
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (.yaml, .toml, .json).")]
AnyJobFile = Annotated[
    Path | None, typer.Argument(metavar="[JOB]", help="A job file, for its gateway and key. Default: CRUN's.")
]
RunPlace = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, or its job file.")]
RunPlaces = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or their job files.")]
Score = Annotated[str | None, typer.Option("--score", metavar="NAME", help="Compare by this score.")]
Baseline = Annotated[str | None, typer.Option("--baseline", metavar="VARIANT", help="Default: the first variant.")]
FailIfWorse = Annotated[
    bool, typer.Option("--fail-if-worse", help="Exit 1 where one is significantly worse than the baseline.")
]
Gold = Annotated[
    str | None,
    typer.Option("--gold", metavar="COLUMN", help="The carried column with the right labels, or: annotations."),
]
Label = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="The replies' labels, such as output.label.")
]
ExportDisagreements = Annotated[
    Path | None,
    typer.Option("--export-disagreements", metavar="FILE", help="The rows on which replies differ: .csv, .jsonl."),
]
ExportLabels = Annotated[
    Path | None,
    typer.Option("--export-labels", metavar="FILE", help="The majority label of each row: .csv, .jsonl."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Simulate = Annotated[
    bool, typer.Option("--simulate", help="Against the bundled simulator: no key, no cost, into DIR-simulated.")
]
SimulatedRun = Annotated[bool, typer.Option("--simulate", help="With a job file: its simulated run.")]
SimulatorSettings = Annotated[
    list[str] | None,
    typer.Option("--simulator", metavar="KEY=VALUE", help="A setting of the simulator; may be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key of the job file by its dotted name; may be repeated."),
]
AllowPaths = Annotated[
    list[str] | None,
    typer.Option("--allow-path", metavar="DIR", help="Rows and SQL may also read files below DIR; repeatable."),
]
EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="Variables from a file, such as .env, where not set."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the bill and whether it may start; send and write nothing.")
]
OutputDir = Annotated[str | None, typer.Option("--output-dir", metavar="DIR", help="The run directory.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")]
Pilot = Annotated[
    int | None,
    typer.Option("--pilot", min=1, metavar="N", help="Send N random rows, show the bill to expect, and stop."),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only the rows of shard I of N, in a run directory of its own."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="N processes under one budget and one set of limits, one run in the end.",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        metavar="URL",
        help="With --shard: what it may use is granted by `crun-batch coordinator`.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="The workers are actors of this Ray cluster; without an address, of one on this machine.",
    ),
]
Retry = Annotated[
    str | None,
    typer.Option(
        "--retry",
        metavar="KIND[,KIND]",
        help="Ask the rows again that ended so: a status, an error kind, failed (all that are not ok), or all.",
    ),
]
MaxCostUsd = Annotated[
    str | None, typer.Option("--max-cost-usd", metavar="X", help="Spend at most X dollars, all sessions together.")
]
MaxCostCredits = Annotated[
    str | None, typer.Option("--max-cost-credits", metavar="X", help="Spend at most X credits, likewise.")
]
UntilBudget = Annotated[
    bool, typer.Option("--until-budget", help="Start although budget or credits will not last; stop there.")
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Stop at this time: 06:00 (the next one), 2026-11-29 06:00."),
]
MaxMinutes = Annotated[float | None, typer.Option("--max-minutes", metavar="N", help="Stop after N minutes.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        metavar="N",
        help="Serve figures for Prometheus on 127.0.0.1:N; 0: any.",
    ),
]
Otel = Annotated[
    bool, typer.Option("--otel", help="Export figures by OpenTelemetry, as its OTEL_* variables say.")
]
CorrectPrices = Annotated[
    bool, typer.Option("--correct-prices", help="The earlier prices were wrong: price what is recorded anew.")
]
RedoChanged = Annotated[
    bool, typer.Option("--redo-changed", help="Send the finished rows again whose request is now different.")
]
Query = Annotated[
    str, typer.Argument(metavar="QUERY", help='Such as "select status, count(*) from results group by status".')
]


def pairs(written: Sequence[str] | None, option: str) -> dict[str, str]:
    """`key=value` texts by key. Raises InputError for a text without `=`."""
    wrong = [text for text in written or () if not text.partition("=")[0].strip() or "=" not in text]
    if wrong:
        raise InputError([Mistake(f"{option} takes KEY=VALUE, not {text!r}") for text in wrong])
    return {key.strip(): value for key, _, value in (text.partition("=") for text in written or ())}


def for_job(
    set_: Sequence[str] | None, env_file: Path | None, allow_path: Sequence[str] | None = None
) -> dict[str, Any]:
    """What --set, --env-file and --allow-path are called by the public functions."""
    return {
        "overrides": pairs(set_, "--set"),
        "env_file": env_file,
        "allow_paths": tuple(allow_path or ()),
    }


def simulator_settings(written: Sequence[str] | None, *, simulate: bool) -> dict[str, Any]:
    """Settings of the simulator; a value is JSON where it reads as JSON, else text."""
    if written and not simulate:
        raise InputError("--simulator is for --simulate, which is not there")
    return {key: _json_or_text(value) for key, value in pairs(written, "--simulator").items()}


def _json_or_text(value: str) -> Any:
    import orjson

    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """The arguments with the address that `--ray` has where none follows it: a cluster on this machine."""
    following = [*arguments[1:], "-"]
    pairs_of = zip(arguments, following, strict=False)
    return [
        text
        for argument, after in pairs_of
        for text in ((argument, "local") if argument == "--ray" and after.startswith("-") else (argument,))
    ]


def resume_command(arguments: Sequence[str]) -> str:
    """The command that goes on with this run, to be typed as it is: without --pilot, with --yes.

    --until stays where it is a time of the day, which comes again.
    --yes is not added to `--retry all`, which asks again, and pays for, what this session has finished.
    """
    program = Path(arguments[0])
    name = ["python", "-m", "crun_batch"] if program.name == "__main__.py" else [program.name]
    kept: list[str] = []
    retried = ""
    rest = iter(arguments[1:])
    for argument in rest:
        option, _, value = argument.partition("=")
        if argument in ("--pilot", "--retry", "--until"):
            value = next(rest, "")
        if option == "--retry":
            retried = value
        if option != "--pilot" and not (option == "--until" and "-" in value):
            kept += [argument, value] if argument in ("--retry", "--until") else [argument]
    asks_itself = {"--yes", "-y"} & set(kept) or "all" in [part.strip() for part in retried.split(",")]
    return shlex.join([*name, *kept, *([] if asks_itself else ["--yes"])])
