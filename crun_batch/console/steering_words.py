"""What a run was told while it runs, in words: the answer to who told it, and what `status` shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.console.amounts import counted, duration
from crun_batch.console.words import one_line


def answer_text(answer: Mapping[str, Any], run: str) -> str:
    """Of `set`, `pause`, `resume` or `stop`: what has changed, and what comes next."""
    flying = f"{counted(answer['in_flight'], 'request')} in flight"
    waited = f"{flying}, waited for {duration(answer['attempt_timeout_seconds'])} at most"
    was_so = all(one["old"] == one["new"] for one in answer["changes"])
    if answer["do"] == "pause":
        return f"{'was paused already' if was_so else 'paused'}; {waited}; to go on: crun-batch resume {run}"
    if answer["do"] == "resume":
        return "it was not paused" if was_so else "goes on"
    if answer["do"] == "stop":
        return f"{'was stopping already' if was_so else 'stops'}; {waited}"
    return "\n".join(f"{one['key']}: {_value(one['old'])} -> {_value(one['new'])}" for one in answer["changes"])


def steering_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What people have told the run that is running, as lines of a status: (what, how)."""
    steering = status.get("steering")
    if steering is None or not status["holder"]:
        return []
    lines = []
    for name, mark in (("paused", steering["paused"]), ("stops", steering["stopped"])):
        if mark is not None:
            lines.append((name, _mark(mark)))
    for key, one in steering["values"].items():
        lines.append(("set", one_line(f"{key}={_value(one['value'])} (was {_value(one['was'])}) {_mark(one)}")))
    return lines


def _mark(mark: Mapping[str, Any]) -> str:
    return one_line(f"since {str(mark['at'])[:19].replace('T', ' ')} UTC by {mark['by']['user']}")


def _value(value: object) -> str:
    return "none" if value is None else one_line(str(value))
