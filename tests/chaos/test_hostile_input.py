"""A job file, a table or a template that means ill meets a clear error, or is contained."""

from __future__ import annotations

import io
import json
import time

import polars as pl
import pytest

from crun_batch import run
from crun_batch.errors import CrunBatchError, InputError
from crun_batch.load.job.job import load_job
from crun_batch.simulator import SimulatorProcess
from crun_batch.store.verify import verify
from crun_batch.store.views import query

HEAD = """
input: {{table: t.csv{where}}}
endpoint: {{base_url: "{base_url}", api_key_env: HOSTILE_KEY}}
model: gpt-5.4
params: {{max_output_tokens: 20}}
output: {{dir: "{folder}", columns: {columns}}}
prompt: {{user: {prompt}}}
"""
ENVIRON = {"HOSTILE_KEY": "ak_sim_hostile"}


@pytest.fixture(scope="module")
def gateway():
    with SimulatorProcess() as simulator:
        yield simulator


@pytest.fixture
def attempt(tmp_path, gateway):
    def run_it(
        prompt='"{{ text }}"',
        where="",
        texts=("a", "b"),
        extra="",
        column="x",
        id=None,
        carried=None,
        folder="run",
        **options,
    ):
        cells = {"text": list(texts), column: [f"x{row}" for row in range(len(texts))]}
        pl.DataFrame(cells).write_csv(tmp_path / "t.csv")
        spec = {"where": where, "id": json.dumps(id, ensure_ascii=False) if id else ""}
        text = HEAD.format(
            base_url=gateway.base_url,
            folder=tmp_path / folder,
            columns=json.dumps(carried, ensure_ascii=False),
            prompt=prompt,
            where="".join(f", {key}: {value}" for key, value in spec.items() if value),
        )
        (tmp_path / "job.yaml").write_text(text + extra)
        return run(tmp_path / "job.yaml", environ=ENVIRON, **options)

    return run_it


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
        "{{ ns.s }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 10000000000 }}",
        "{{ text.__class__.__mro__ }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_never_ends_or_eats_the_memory_is_stopped(attempt, template):
    began = time.monotonic()
    with pytest.raises(InputError):
        attempt(prompt=f'"{template}"')
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "where",
    [
        '"true; drop table x"',
        "\"true; copy (select 1) to 'stolen.csv'\"",
        "\"text in (select content from read_text('/etc/passwd'))\"",
        "\"1=1) union all select * from read_csv('/etc/passwd') where (1=1\"",
    ],
)
def test_a_where_is_a_predicate_and_nothing_else(attempt, tmp_path, where):
    with pytest.raises(InputError):
        attempt(where=where)
    assert [] == list(tmp_path.rglob("stolen.csv"))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "extra",
    [
        BOMB,
        "repeats: 1000000000000\n",
        "model: other\n",
        "model: gpt-5.4\nmodel: gpt-5.4\n",
        "x: !!python/object/apply:os.system [id]\n",
    ],
)
def test_a_job_file_that_means_ill_is_refused_soon(attempt, extra):
    """An alias bomb, more requests than any memory holds, keys that stand twice, tags that would run code."""
    began = time.monotonic()
    with pytest.raises(InputError):
        attempt(extra=extra)
    assert time.monotonic() - began < 10


def test_an_output_path_with_dots_stays_a_path_and_takes_no_folder_that_is_not_a_run(attempt, tmp_path):
    """`../` is allowed to those who write it; a folder with other things in it is never written into."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "run").mkdir()
    with pytest.raises(CrunBatchError, match="not empty and holds no run"):
        attempt(output_dir=str(tmp_path / "run" / ".." / "mine"))
    assert ["thesis.txt"] == [path.name for path in (tmp_path / "mine").iterdir()]


@pytest.mark.parametrize("name", ["../escape", "/etc/x", "a/b", "..", "a\\0b"])
def test_a_job_name_is_no_path(tmp_path, name):
    (tmp_path / "t.csv").write_text("text\na\n")
    (tmp_path / "job.yaml").write_text(f'name: "{name}"\ninput: {{table: t.csv}}\nmodel: m\nprompt: {{user: x}}\n')
    with pytest.raises(InputError, match="name"):
        load_job(tmp_path / "job.yaml")


NAMES_OF_OURS = ["variant", "Status", "_sequence", "_Supersedes", "_last", "COST_USD"]


@pytest.mark.parametrize("name", [*NAMES_OF_OURS, "serial", "turn", "Outcome", "request_id", "reply_body"])
def test_an_id_with_a_name_of_ours_is_refused_before_anything_is_sent(attempt, gateway, name):
    """Results and attempts have each name once, whatever its case: SQL tells no case apart."""
    before = gateway.stats()["paths"]
    with pytest.raises(InputError, match=r"input\.id: .* of their own"):
        attempt(column=name, id=name)
    assert before == gateway.stats()["paths"]


@pytest.mark.parametrize("name", [*NAMES_OF_OURS, "Row", "TEXT"])
def test_a_carried_column_with_a_name_of_ours_or_twice_the_same_is_refused(attempt, gateway, name):
    before = gateway.stats()["paths"]
    with pytest.raises(InputError, match=r"output\.columns: .* already"):
        attempt(column=name, carried=["text", name])
    assert before == gateway.stats()["paths"]


@pytest.mark.parametrize("name", ['a"b', "'; drop table results; --", "a\nb", "é🙂", "a%b", "results", "final"])
def test_any_other_name_is_a_name(attempt, name):
    """As the id and as a column of the results: read back by SQL, verified, exported."""
    for folder, options in (("as_id", {"id": name}), ("carried", {"carried": [name]})):
        ended = attempt(column=name, folder=folder, **options)
        assert ["x0", "x1"] == sorted(ended.results().collect()[name])
        quoted = name.replace('"', '""')
        assert ["x0", "x1"] == query(ended.directory, f'select "{quoted}" from results order by 1')[0].to_pylist()
        assert [] == [found for found in verify(ended.directory, data=True) if found.severity == "error"]
        out = io.BytesIO()
        ended.export("csv", out)
        assert b"x0" in out.getvalue()


def test_a_cell_of_ten_megabytes_is_carried_or_refused_but_does_not_stop_the_others(attempt):
    ended = attempt(texts=("small", "w " * 5_000_000), until_budget=True)
    statuses = ended.results().collect().sort("row")["status"].to_list()
    assert 2 == len(statuses)
    assert statuses[0] in ("ok", "truncated")


def test_a_formula_does_not_run_in_a_spreadsheet(attempt):
    """A cell of an exported CSV that would begin a formula begins with an apostrophe."""
    ended = attempt(texts=("=HYPERLINK(1)", "@SUM(1)", "+1", "-1+2"))
    out = io.BytesIO()
    ended.export("csv", out)
    assert b"\n=" not in out.getvalue()
    for cell in ("=HYPERLINK(1)", "@SUM(1)", "+1", "-1+2"):
        assert f",{cell}".encode() not in out.getvalue()
        assert f"'{cell}".encode() in out.getvalue()
