"""Who is told when a run ends: the words of the program, and what would keep anybody from being told."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping

from crun_batch.errors import InputError
from crun_batch.load.job.env_file import variables_of
from crun_batch.load.job.job import Job


def on_end_problems(job: Job, environ: Mapping[str, str]) -> list[str]:
    """Why nobody would be told when the run ends, in sentences."""
    spec, problems = job.on_end, []
    if spec.command is not None:
        try:
            program = command_words(spec.command)[0]
        except (ValueError, IndexError):
            problems.append("on_end.command is no command: a quote is open, or it is blank")
        else:
            if shutil.which(program) is None:
                problems.append(f"on_end.command: there is no program {program!r}")
    if spec.webhook_env is not None and not _variable(job, environ, spec.webhook_env):
        problems.append(f"on_end.webhook_env: the variable {spec.webhook_env} is not set")
    return problems


def command_words(command: str | tuple[str, ...]) -> list[str]:
    """The program and its arguments. Raises ValueError where a quote stays open."""
    return shlex.split(command) if isinstance(command, str) else list(command)


def _variable(job: Job, environ: Mapping[str, str], name: str) -> str:
    try:
        return variables_of(job.env_file, job.base_dir, environ).get(name, "").strip()
    except InputError:  # told where keys are read
        return environ.get(name, "").strip()
