"""A job file or a table from somebody else reads no file outside the job's folder, by whatever way."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from crun_batch import check, load_job
from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.prompt.parts import Attachments
from crun_batch.load.prompt.render import Renderer, RowRejected
from crun_batch.load.prompt.templates import Unrenderable
from crun_batch.load.table.table import open_table
from crun_batch.records import Row

SECRET = "MARKED-0123456789"


@pytest.fixture
def place(tmp_path, monkeypatch) -> SimpleNamespace:
    """A job's folder beside one with a secret, links from the first into the second, and a secret variable."""
    job, other = tmp_path / "job", tmp_path / "other"
    (job / "sub").mkdir(parents=True)
    other.mkdir()
    (other / "secret.csv").write_text(f"k\n{SECRET}\n")
    (other / "secret.txt").write_text(SECRET)
    (job / "own.csv").write_text("k\nown\n")
    (job / "sub" / "own.txt").write_text("own")
    (job / "link.csv").symlink_to(other / "secret.csv")
    (job / "link.txt").symlink_to(other / "secret.txt")
    (job / "linked").symlink_to(other)
    monkeypatch.setenv("MARKED", SECRET)
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(job=job, other=other)


def rows(keys: dict[str, Any], folders: Folders) -> str:
    spec = dict.fromkeys(("table", "query", "where", "id", "limit", "sample", "csv", "sheet"))
    table = open_table(SimpleNamespace(**{**spec, **keys}), folders=folders)
    return str([row.values for batch in table.rows(table.schema.names) for row in batch])


OUTSIDE = [
    "from '{other}/secret.csv'",
    "from '../other/secret.csv'",
    "from '{job}/../other/secret.csv'",
    "from 'link.csv'",
    "from '{job}/link.csv'",
    "from 'linked/secret.csv'",
    "from '*.csv'",
    "from '**/*.csv'",
    "from '../*/secret.csv'",
    "from read_csv('../other/secret.csv')",
    "from read_csv(['own.csv', '{other}/secret.csv'])",
    "from read_csv('{oth' || 'er}/secret.csv')",
    "select content as k from read_text('/proc/self/environ')",
    "select content::varchar as k from read_blob('/proc/self/environ')",
    "select content as k from read_text('/proc/' || 'self' || '/environ')",
    "select content as k from read_text('/proc/self/root{other}/secret.txt')",
    "select content as k from read_text('/proc/self/cwd/other/secret.txt')",
    "select content as k from read_text('/dev/fd/0')",
    "select content as k from read_text('file://{other}/secret.txt')",
    "select file as k from glob('{other}/*')",
    "select delimiter as k from sniff_csv('{other}/secret.csv')",
    "select getenv('MARKED') as k",
    "select k from (from read_csv(getvariable('x')))",
    "from 'http://127.0.0.1:9/x.csv'",
    "attach '{other}/x.db'",
    "copy (select 1 as k) to '{other}/written.csv'",
    "with a as (copy (select 1) to '{other}/written.csv') select 1 as k",
    "install httpfs",
    "load httpfs",
    "pragma database_list",
    "set enable_external_access = true",
    "call pragma_version()",
    "select * from query('from ''{other}/secret.csv''')",
    "select * from query_table('{other}/secret.csv')",
    "select k from (select unnest(['{other}/secret.csv']) as f), lateral (select * from read_csv(f))",
]


@pytest.mark.parametrize("query", OUTSIDE)
def test_no_query_reads_outside_the_job_folder(place, query):
    """Neither a file nor a variable of the process, by a plain name, `..`, a link, a glob or a made-up name."""
    query = query.replace("{oth' || 'er}", f"{str(place.other)[:-2]}' || '{str(place.other)[-2:]}")
    written = query.replace("{job}", str(place.job)).replace("{other}", str(place.other))
    with pytest.raises(InputError) as refused:
        rows({"query": written, "id": "k"}, Folders(place.job))
    assert SECRET not in str(refused.value)
    assert not (place.other / "written.csv").exists()


@pytest.mark.parametrize("query", ["from '{other}/secret.csv'", "from '../other/secret.csv'", "from 'link.csv'"])
def test_an_allowed_folder_is_read(place, query):
    written = query.replace("{other}", str(place.other))
    assert SECRET in rows({"query": written, "id": "k"}, Folders(place.job, [place.other]))


INSIDE = ["from 'own.csv'", "from '{job}/own.csv'", "from 'sub/../own.csv'", "from 'o*.csv'"]


@pytest.mark.parametrize("query", INSIDE)
def test_the_job_folder_is_read(place, query):
    """Relative to the job file, from whatever directory it is started."""
    assert "own" in rows({"query": query.replace("{job}", str(place.job)), "id": "k"}, Folders(place.job))


def test_a_predicate_reads_no_other_file_either(place):
    """Nor where only its subquery does; the files that the job's table names it may read."""
    table = str(place.other / "secret.csv")
    for where in ("k in (select k from '{}')", "k in (select content from read_text('{}'))"):
        with pytest.raises(InputError):
            rows({"table": "own.csv", "where": where.format(table)}, Folders(place.job))
    own = f"k in (select k from '{table}')"
    assert SECRET in rows({"table": table, "where": own}, Folders(place.job))


def test_a_large_query_still_spills(place):
    """The engine's own temporary folder is no file of the job's, and it may write there."""
    query = "select k, repeat('x', 200) as text from range(3000000) t(k) order by hash(k)"
    spec = SimpleNamespace(table=None, query=query, where=None, id="k", limit=5, sample=None, csv=None, sheet=None)
    assert 3_000_000 == open_table(spec, folders=Folders(place.job)).source_rows


REFERENCES = ["../other/secret.txt", "{other}/secret.txt", "link.txt", "linked/secret.txt", "sub/../link.txt"]


@pytest.mark.parametrize("kind", ["file", "image"])
@pytest.mark.parametrize("reference", [*REFERENCES, "/proc/self/environ", "/dev/zero", "sub/../../other/x.txt"])
def test_no_row_sends_a_file_outside_the_job_folder(place, kind, reference):
    """The row is refused by name, before anything is sent."""
    part = {"type": kind, kind: "{{ f }}"}
    made = renderer(place.job, messages=[{"role": "user", "content": [part]}])
    with pytest.raises(RowRejected, match="outside the job's folder"):
        made.render(Row(0, 0, {"f": reference.replace("{other}", str(place.other))}))


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_row_sends_a_file_of_an_allowed_folder(place, reference):
    url = Attachments(Folders(place.job, [place.other])).url(
        reference.replace("{other}", str(place.other)), image=False
    )
    assert SECRET == base64.b64decode(url.partition(",")[2]).decode()


def test_a_link_that_replaces_a_file_is_not_followed(place, monkeypatch):
    """Between the look at the file and its opening somebody else may have been at work."""
    own, lstat = place.job / "sub" / "own.txt", Path.lstat

    def look(path: Path) -> os.stat_result:
        seen = lstat(path)
        own.unlink()
        own.symlink_to(place.other / "secret.txt")
        return seen

    monkeypatch.setattr(Path, "lstat", look)
    with pytest.raises(Unrenderable):
        Attachments(Folders(place.job)).url("sub/own.txt", image=False)


def test_a_folder_that_became_a_link_is_not_read(place, monkeypatch):
    own, lstat = place.job / "sub", Path.lstat
    (place.other / "own.txt").write_text(SECRET)

    def look(path: Path) -> os.stat_result:
        seen = lstat(path)
        own.rename(place.job / "moved")
        own.symlink_to(place.other)
        return seen

    monkeypatch.setattr(Path, "lstat", look)
    with pytest.raises(Unrenderable, match="replaced"):
        Attachments(Folders(place.job)).url("sub/own.txt", image=False)


def renderer(folder: Path, **prompt: Any) -> Renderer:
    keys = ("system", "user", "messages", "messages_column", "body_column", "turns")
    spec = SimpleNamespace(**{**dict.fromkeys(keys), **prompt})
    schema = pa.schema([("f", pa.string())])
    return Renderer(spec, schema=schema, folders=Folders(folder), job_source="job.yaml")


UNSENDABLE = [
    {"type": "image", "image": "sub/own.txt"},
    {"type": "image", "url": "sub/own.txt"},
    {"type": "image"},
    {"type": "image_url", "image_url": {"url": "cat.png"}},
    {"type": "image_url", "image_url": "cat.png"},
    {"type": "image_url", "image_url": {}},
    {"type": "image_url"},
    {"type": "input_image", "image_url": "/etc/passwd"},
    {"type": "file", "file": "notes.pdf"},
    {"type": "file", "url": "file:///etc/passwd"},
]
SENDABLE = [
    {"type": "image", "url": "https://a.example/cat.png"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    {"type": "file", "file": {"file_id": "f-1"}},
    {"type": "image", "source": {"type": "base64", "data": "AA=="}},
    {"type": "text", "text": "cat.png"},
]


@pytest.mark.parametrize("part", UNSENDABLE)
def test_a_message_of_the_table_with_a_local_image_is_refused_unsent(place, part):
    """It would go out as an image without an address, and be paid."""
    made = renderer(place.job, messages_column="f")
    messages = [{"role": "user", "content": [part]}]
    with pytest.raises(RowRejected, match="message 0 cannot be sent: its part of type"):
        made.render(Row(0, 0, {"f": json.dumps(messages)}))


@pytest.mark.parametrize("part", SENDABLE)
def test_a_message_of_the_table_with_an_address_is_sent(place, part):
    made = renderer(place.job, messages_column="f")
    messages = [{"role": "user", "content": [part]}]
    assert tuple(messages) == made.render(Row(0, 0, {"f": json.dumps(messages)})).messages


def test_check_reads_an_allowed_folder_only_where_it_is_allowed(place):
    """The whole way from the option: refused without it, read with it, and no folder is a mistake."""
    query = f"from '{place.other}/secret.csv'"
    job = {"input": {"query": query, "id": "k"}, "model": "m", "prompt": {"user": "x {{ k }}"}}
    (place.job / "job.json").write_text(json.dumps(job))
    environ = {"CRUN_API_KEY": "ak_0123456789"}
    refused = check(place.job / "job.json", environ=environ)
    assert "--allow-path" in refused["mistakes"][0]["message"]
    assert [] == check(place.job / "job.json", environ=environ, allow_paths=[place.other])["mistakes"]
    absent = check(place.job / "job.json", environ=environ, allow_paths=[place.other / "no"])
    assert "takes a folder that exists" in absent["mistakes"][0]["message"]


def test_no_text_of_a_job_file_is_read_outside_its_folder(place):
    """Prompts and schemas are sent: somebody else's job file names none elsewhere, by a link either."""
    (place.other / "schema.json").write_text('{"type": "object"}')
    (place.job / "schema.json").symlink_to(place.other / "schema.json")
    for changes in (
        {"prompt": {"user": {"file": str(place.other / "secret.txt")}}},
        {"prompt": {"user": {"file": "../other/secret.txt"}}},
        {"prompt": {"user": {"file": "link.txt"}}},
        {"output_schema": "schema.json"},
    ):
        job = {"input": {"table": "own.csv"}, "model": "m", "prompt": {"user": "x {{ k }}"}, **changes}
        (place.job / "job.json").write_text(json.dumps(job))
        refused = check(place.job / "job.json", environ={"CRUN_API_KEY": "ak_0123456789"})
        assert any("outside the job's folder" in mistake["message"] for mistake in refused["mistakes"])
        assert SECRET not in str(refused)
        load_job(place.job / "job.json", allow_paths=[place.other])
