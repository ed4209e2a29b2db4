"""The commands around the tool itself: whether this machine is ready, completion for a shell.

As in `commands`: arguments in, one public call, words and an exit code out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

import crun_batch
from crun_batch.cli import options
from crun_batch.cli.output import out, out_bytes, out_json, width
from crun_batch.errors import EXIT_ROWS_FAILED

Shell = Literal["bash", "zsh", "fish"]


def doctor(
    job: options.AnyJobFile = None,
    env_file: options.EnvFile = None,
    set_: options.Settings = None,
    json: options.AsJson = False,
) -> int:
    """Look whether this machine is ready, and say what to do.

    Python and the libraries, certificates, proxy, open files, room on the disk; then the gateway: reached, clock,
    key accepted, balance. Sends no prompt and costs nothing. Exit code 1 where something stands in the way.
    """
    from crun_batch.console.doctor_words import doctor_text

    document = crun_batch.doctor(job, **options.for_job(set_, env_file))
    if json:
        out_json(document)
    else:
        out(doctor_text(document, width()))
    return 0 if document["is_ready"] else EXIT_ROWS_FAILED


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(help="The shell.")],
) -> int:
    """Print the completion script of a shell.

    Bash, in .bashrc: eval "$(crun-batch completion bash)". Zsh, in .zshrc after compinit: the same with zsh. Fish:
    crun-batch completion fish > ~/.config/fish/completions/crun-batch.fish. Completing starts no Python.
    """
    from crun_batch.cli.command_tree import command_tree
    from crun_batch.cli.completion import completion_script

    out_bytes(completion_script(shell, command_tree(context.find_root().command)).encode())
    return 0
