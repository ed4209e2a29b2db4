"""What the tests of the command line share: a small job, a gateway for it, a command with what it wrote."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from crun_batch.cli import commands
from crun_batch.simulator import SimulatorProcess, start_simulator

KEY = "ak_sim_0123456789"
JOB = """
name: small
input: {table: rows.csv, id: id}
model: deepseek-chat
prompt: {user: "{{ text }}"}
params: {max_output_tokens: 20}
prices:
  models:
    deepseek-chat: {currency: credits, input_per_mtok: 500, output_per_mtok: 3000, minimum_per_request: 0.01}
"""


class Answer(NamedTuple):
    """A command's exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def gateway() -> SimulatorProcess:
    """A simulated gateway that knows the job's model, with answers of five tokens."""
    prices = {"deepseek-chat": {"input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": "0.01"}}
    return start_simulator(models=prices, output_tokens_median=5, output_tokens_sigma=0)


def rows(count: int) -> str:
    """The job's table."""
    return "id,text\n" + "".join(f"{n},question {n}\n" for n in range(count))


def commander(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Runs a command in this process."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["crun-batch", *arguments])
        capfdbinary.readouterr()
        code = commands.main(arguments)
        out, err = capfdbinary.readouterr()
        if re.search(rb"^SIG\w+: (ended|no new requests)", err, re.MULTILINE):  # no test signals its own process
            pytest.exit(f"a signal for the tests ended a command in their process: {err.decode()}", code)
        return Answer(code, out.decode(), err.decode())

    return run
