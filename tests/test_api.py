"""The public names: what `dir` and `help` show, and that every one of them is there."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import crun_batch
from crun_batch.cli.commands import app
from crun_batch.load.job.places import Argument
from crun_batch.options import JOB_KEYS

COMMANDS_WITHOUT_A_FUNCTION = {
    "init": "writes files for a person",
    "sql": "Run.sql",
    "completion": "prints what a shell reads",
    "simulator": "crun_batch.simulator",
    "schema": "job_schema",
}
FUNCTIONS = sorted(name for name in crun_batch.__all__ if inspect.isfunction(getattr(crun_batch, name)))


def test_the_public_names_are_a_sorted_list_and_nothing_else_shows():
    assert sorted(crun_batch.__all__) == crun_batch.__all__ == dir(crun_batch)
    assert [] == [name for name in crun_batch.__all__ if not hasattr(crun_batch, name)]


def test_each_command_is_a_public_function():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set() == commands - set(FUNCTIONS) - set(COMMANDS_WITHOUT_A_FUNCTION)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_its_arguments_and_what_it_raises(name):
    """A signature of names with types; a docstring."""
    function = getattr(crun_batch, name)
    parameters = inspect.signature(function).parameters.values()
    assert [] == [one.name for one in parameters if one.annotation is inspect.Parameter.empty]
    assert [] == [one.name for one in parameters if one.kind is one.VAR_POSITIONAL and one.name != "runs"]
    assert len(inspect.getdoc(function) or "") > 40


def test_arun_and_aestimate_take_what_run_and_estimate_take():
    """One argument added to one of the two would be lost in the other."""
    for plain, asynchronous in ((crun_batch.run, crun_batch.arun), (crun_batch.estimate, crun_batch.aestimate)):
        assert inspect.signature(plain).parameters == inspect.signature(asynchronous).parameters


def test_every_argument_that_run_spells_out_reaches_the_options(monkeypatch):
    """What `run` names is handed on under its name, whatever its value; 0 and "" are values."""
    heard = {}

    async def run_job(job, table, options):
        heard.update(options=options, table=table)
        raise crun_batch.InputError("far enough")

    monkeypatch.setattr("crun_batch.pipeline.run_job", run_job)
    flags = dict.fromkeys(("simulate", "until_budget", "redo_changed", "correct_prices", "progress"), True)
    with pytest.raises(crun_batch.InputError, match="far enough"):
        crun_batch.run(
            "job.yaml",
            table="a table",
            limit=0,
            max_cost_usd="1",
            max_cost_credits=2,
            output_dir="there",
            pilot=3,
            retry=["failed"],
            **flags,
        )
    options = heard["options"]
    given = {"limit": 0, "max_cost_usd": "1", "max_cost_credits": 2, "output_dir": "there"}
    keys = {JOB_KEYS[name]: Argument(name, value) for name, value in given.items()}
    assert ("a table", keys, 3) == (heard["table"], dict(options.overrides), options.pilot)
    assert "error" in options.retry and "ok" not in options.retry
    assert [] == [name for name in flags if getattr(options, name) is not True]


def test_help_shows_a_signature_and_words():
    """As somebody reads it in a terminal."""
    shown = "import crun_batch; help(crun_batch.run)"
    said = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout
    assert "max_cost_usd: " in said and "RefusedToStart" in said
