"""The command that goes on with a run, rewritten: for the place where the run stands now, or under other caps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

import orjson

from crun_batch.errors import InputError
from crun_batch.records import PICO
from crun_batch.store.directory import RunDirectory, read_json

_THREE_DIGITS_UP = Context(prec=3, rounding=ROUND_CEILING)


def summary_in(path: Path) -> dict[str, Any]:
    """The summary of the run in a directory. Raises InputError where there is none, RunDamaged."""
    run = RunDirectory(path)
    if not run.has_summary:
        raise InputError(f"{path}: there is no run here (no summary.json)")
    return as_seen_from(path, read_json(run.summary))


def as_seen_from(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """A run that stands elsewhere than its summary says: its command must not begin another, paid run there."""
    command = summary["resume_command"]
    if Path(summary["output_dir"]).resolve() == path.resolve():
        return summary
    if command is not None:
        here = ["--output-dir", str(path.resolve())]
        command = shlex.join([*_without(shlex.split(command), "--output-dir"), *here])
    return {**summary, "output_dir": str(path), "resume_command": command}


def of_all_rows(command: str | None, directory: Path) -> str | None:
    """A shard's command, for the run in this directory that has the rows of all shards."""
    if command is None:
        return None
    words = _without(list(_without(shlex.split(command), "--shard")), "--output-dir")
    return shlex.join([*words, "--output-dir", str(directory)])


def once_corrected(command: str | None) -> str | None:
    """The command without --correct-prices: that is done, and the next change of a price may be a true one."""
    if command is None:
        return None
    return shlex.join(word for word in shlex.split(command) if word != "--correct-prices")


def under_caps(command: str | None, caps: Mapping[str, int]) -> str | None:
    """The command with these caps (unit -> pico) in place of those that it names; each is rounded up."""
    if command is None:
        return None
    words = shlex.split(command)
    for unit, pico in caps.items():
        words = list(_without(words, f"--max-cost-{unit}"))
        words = list(_without(words, "--set", f"budget.max_cost_{unit}="))
        words = list(_without_cap_in_budget(words, f"max_cost_{unit}"))
        words += [f"--max-cost-{unit}", _rounded_up(pico)]
    return shlex.join(words)


def _without_cap_in_budget(words: Sequence[str], cap: str) -> Iterator[str]:
    """All words, that cap taken out of `--set budget={...}`, which goes where nothing is left in it."""
    from crun_batch.load.job.yaml_reader import override_value  # brings a parser that `status` does not need

    rest = iter(words)
    for word in rest:
        option, is_one_word, value = word.partition("=")
        if option != "--set":
            yield word
            continue
        key, _, text = (value if is_one_word else next(rest, "")).partition("=")
        section = override_value(text) if key.strip() == "budget" else None
        if isinstance(section, dict) and cap in section:
            left = {name: part for name, part in section.items() if name != cap}
            text = orjson.dumps(left, default=str).decode() if left else ""
        if text or not isinstance(section, dict):
            yield from ([f"--set={key}={text}"] if is_one_word else ["--set", f"{key}={text}"])


def _rounded_up(pico: int) -> str:
    return f"{_THREE_DIGITS_UP.divide(pico, PICO).normalize():f}"


def _without(words: Sequence[str], option: str, value_begins: str = "") -> Iterator[str]:
    """All words but this option and its value, where the value begins so; `--option=value` is one word."""
    rest = iter(words)
    for word in rest:
        name, is_one_word, value = word.partition("=")
        if name != option:
            yield word
            continue
        if not is_one_word:
            value = next(rest, "")
        if not value.startswith(value_begins):
            yield from ([word] if is_one_word else [word, value])
