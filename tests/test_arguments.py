"""Arguments of the public functions: a wrong one is an InputError that names it; a text is a text."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from run_kit import ENVIRON, job, run, simulator, texts

import crun_batch
from crun_batch.cli.output import error_document
from crun_batch.load.arguments import KINDS
from crun_batch.options import options_of
from crun_batch.scale.messages import Order, decode_order, encode
from crun_batch.scale.orders import arguments_of, options_of_order, texts_of

WRONG: dict[str, list[Any]] = {
    "simulate": ["yes", 3],
    "output_dir": [3, "", b"x"],
    "metrics_port": ["x", -1, 70000, 1.5, True],
    "workers": ["x", 1.5, True],
    "shard": [3, (1, 2)],
    "retry": [3, ["ok", 3]],
    "coordinator": [3],
    "watch": [3],
    "wire": ["x"],
    "environ": [3, {"CRUN_API_KEY": None}],
    "env_file": [3],
    "allow_paths": [3, [3]],
    "simulator": [3],
    "overrides": [3, {3: 3}],
    "pilot": ["x", 0],
    "until": ["x"],
    "max_minutes": ["x"],
    "table": [{"a": [1]}, (row for row in [1])],
}
OF_THE_JOB = {"limit": [-1, True, "2"], "max_cost_usd": ["x", 0], "budget": [3], "model": [3], "prompt": ["x"]}


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    texts(3).write_csv("rows.csv")
    Path("job.yaml").write_text(
        "input: {table: rows.csv, id: id}\nmodel: gpt-5.4\nprompt: {user: '{{ text }}'}\n"
        "params: {max_output_tokens: 9}\n"
    )
    return "job.yaml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> crun_batch.Run:
    with simulator() as at:
        return run(job(at, tmp_path_factory.mktemp("done")), texts(2))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_named(job_file: str, name: str, value: Any) -> None:
    """Where it is seen before anything else is."""
    with pytest.raises(crun_batch.InputError) as caught:
        crun_batch.run(job_file, **{"environ": ENVIRON, "endpoint": {"api_key_env": "SIM_KEY"}, name: value})
    assert [name] == [mistake.key for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OF_THE_JOB.items() for value in values]
)
def test_a_value_that_the_job_refuses_is_placed_at_its_argument(job_file: str, name: str, value: Any) -> None:
    """And on the command line at its option; it had been laid to --set."""
    with pytest.raises(crun_batch.InputError) as caught:
        crun_batch.load_job(job_file, **{name: value})
    assert {f"argument {name}"} == {mistake.file for mistake in caught.value.mistakes}
    told = error_document(caught.value)["error"]["mistakes"]
    assert {f"--{name.replace('_', '-')}"} == {mistake["file"] for mistake in told}


@pytest.mark.parametrize("text", ["3", "null", "'quoted' {{ text }}", "{a: {{ text }}}", "[1]", "a: b", "", " x "])
def test_a_text_from_python_is_not_read_as_yaml(job_file: str, text: str) -> None:
    """Quotes at both ends of a prompt had gone unseen, others were refused; --set reads as ever."""
    read = crun_batch.load_job(job_file, prompt={"user": "x", "system": text}, params={"a.b": text})
    assert (text, text) == (read.prompt.system, read.params["a.b"])
    assert 5 == crun_batch.load_job(job_file, overrides={"params.top_k": "5"}).params["top_k"]


class Label(pydantic.BaseModel):
    """What a reply is to be."""

    label: str


def test_workers_have_arguments_as_they_were_given(job_file: str) -> None:
    """Over their pipe too, paths and classes among them."""
    sections = {"prompt": {"system": "null"}, "input": {"table": Path("rows.csv")}, "output_schema": Label}
    given = options_of({**sections, "overrides": {"name": "x"}}).overrides
    order = Order(job_file, (1, 1), overrides=texts_of(given), arguments=arguments_of(given))
    heard = options_of_order(decode_order.decode(encode(order))).overrides
    read, whole = (crun_batch.load_job(job_file, overrides=overrides) for overrides in (heard, given))
    assert ("null", "rows.csv", "x") == (read.prompt.system, read.input.table, read.name)
    assert whole.request_fingerprint() == read.request_fingerprint()


OF_A_RUN = (
    "annotate",
    "cancel",
    "compare",
    "export",
    "export_annotations",
    "follow",
    "import_annotations",
    "merge",
)
OF_A_RUN = (*OF_A_RUN, "open_run", "pause", "report", "resume", "set", "show", "status", "stop", "verify", "view")
FILLED = {"id": 1, "format": "csv", "target": "x.csv", "path": "x.csv", "values": {}, "output_dir": "x"}


@pytest.mark.parametrize("name", OF_A_RUN)
@pytest.mark.parametrize("wrong", [3, None, b"run", ["run"]])
def test_what_is_no_run_is_told_by_each_function(name: str, wrong: Any) -> None:
    function = getattr(crun_batch, name)
    named, *others = inspect.signature(function).parameters.values()
    needed = {one.name: FILLED[one.name] for one in others if one.default is one.empty}
    with pytest.raises(crun_batch.InputError) as caught:
        function(wrong, **needed)
    assert [named.name] == [mistake.key for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("show", {"id": None}, "id"),
        ("show", {"id": True}, "id"),
        ("annotate", {"id": 1, "variant": 3}, "variant"),
        ("annotate", {"id": 1, "label": 3}, "label"),
        ("export", {"format": "xls", "target": "x.csv"}, "format"),
        ("export", {"format": "csv", "target": 3}, "target"),
        ("export", {"format": "csv", "target": io.StringIO()}, "target"),
        ("export", {"format": "csv", "target": "x.csv", "columns": [3]}, "columns"),
        ("export", {"format": "csv", "target": "x.csv", "where": 3}, "where"),
        ("compare", {"label": 3}, "label"),
        ("report", {"path": 3}, "path"),
        ("follow", {"every_seconds": "x"}, "every_seconds"),
        ("set", {"values": 3}, "values"),
        ("view", {"port": "x"}, "port"),
        ("view", {"host": 3}, "host"),
    ],
)
def test_a_wrong_argument_beside_a_run_is_named(
    done: crun_batch.Run, name: str, arguments: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(crun_batch.InputError) as caught:
        getattr(crun_batch, name)(done, **arguments)
    assert [wrong] == [mistake.key for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    "function", [crun_batch.compare, crun_batch.report, lambda: crun_batch.merge(output_dir="x")]
)
def test_no_run_at_all_is_told(function) -> None:
    """A report of nothing had been written, and the others fell over it."""
    with pytest.raises(crun_batch.InputError, match="runs: give at least one run"):
        function()


@pytest.mark.parametrize("wrong", [3, None, b"job.yaml", {"name": "x"}])
def test_what_is_no_job_is_told(wrong: Any) -> None:
    for function in (crun_batch.run, crun_batch.estimate, crun_batch.check, crun_batch.load_job):
        with pytest.raises(crun_batch.InputError, match="must be a"):
            function(wrong)
    with pytest.raises(crun_batch.InputError, match=r"Job\(\*\*sections\)"):
        crun_batch.Job({"name": "x"})


def test_numbers_and_flags_of_numpy_are_taken(job_file: str) -> None:
    options = options_of({"metrics_port": np.int64(0), "otel": np.True_, "pilot": np.int32(3)})
    assert (0, True, 3) == (options.metrics_port, options.otel, options.pilot)


def test_none_is_no_argument(job_file: str) -> None:
    """As where a script hands on what it was not given."""
    assert options_of({}) == options_of(dict.fromkeys(("retry", "say", "environ", "allow_paths", "watch")))


def test_what_a_secret_variable_holds_is_not_shown(job_file: str) -> None:
    with pytest.raises(crun_batch.InputError) as caught:
        crun_batch.check(job_file, environ={"A": "ak_secret_MARKED", "B": None})  # type: ignore[dict-item]
    assert "MARKED" not in str(caught.value)


def test_each_kind_is_of_an_argument_that_there_is() -> None:
    functions = [getattr(crun_batch, name) for name in crun_batch.__all__]
    methods = [method for _, method in inspect.getmembers(crun_batch.Run, inspect.isfunction)]
    named = {
        name
        for function in [*functions, *methods]
        if inspect.isfunction(function)
        for name in inspect.signature(function).parameters
    }
    assert [] == sorted(set(KINDS) - named - set(crun_batch.RunOptions.__struct_fields__))
