"""Laws of tables that lie elsewhere: every format as from disk, whole or refused, without a secret in any word."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import remote_kit
from test_table import Input, ids_of, rows_of

import crun_batch
from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders
from crun_batch.load.table import https_file
from crun_batch.load.table.copies import CopyFolder, RemoteFile, base_of, matches
from crun_batch.load.table.table import Table, open_table

ROWS = [{"id": f"r{number}", "text": f"Text {number}"} for number in range(500)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[remote_kit.FileServer]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(https_file, "fetch", partial(https_file.fetch, pause=lambda _: None))
    with remote_kit.file_server(tmp_path / "ca.pem") as running:
        running.files["/data/rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        yield running


def mistakes_of(opening: Callable[[], object]) -> tuple[Mistake, ...]:
    with pytest.raises(InputError) as caught:
        opening()
    return caught.value.mistakes


def opened(table: Any, folder: Path, **keys: Any) -> Table:
    return open_table(Input(table, **keys), folders=Folders(folder))


def written(kind: str, folder: Path) -> bytes:
    """The rows in a format."""
    frame, path = pl.DataFrame(ROWS), folder / f"rows{kind}"
    if kind == ".parquet":
        frame.write_parquet(path)
    elif kind.startswith(".csv"):
        data = frame.write_csv().encode()
        return gzip.compress(data) if kind.endswith(".gz") else data
    elif kind == ".json":
        return json.dumps(ROWS).encode()
    elif kind == ".arrow":
        frame.write_ipc(path)
    else:
        frame.write_ndjson(path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".csv.gz", ".json", ".jsonl", ".arrow"])
def test_a_file_over_https_is_read_as_from_disk(server, tmp_path, kind):
    data = written(kind, tmp_path)
    server.files[f"/some/rows{kind}"] = data
    (tmp_path / f"here{kind}").write_bytes(data)
    there, here = opened(f"{server.url}/some/rows{kind}", tmp_path), opened(f"here{kind}", tmp_path)
    assert [row.values for row in rows_of(here)] == [row.values for row in rows_of(there)]
    assert here.fingerprint() == there.fingerprint()


def test_files_here_and_elsewhere_make_one_table_in_their_order(server, tmp_path):
    (tmp_path / "first.jsonl").write_text('{"id": "a", "text": "b"}\n')
    table = opened(["first.jsonl", f"{server.url}/data/rows.jsonl"], tmp_path, id="id")
    assert ["a", *(row["id"] for row in ROWS)] == ids_of(table)
    assert (str(tmp_path / "first.jsonl"), f"{server.url}/data/rows.jsonl") == table.source.names


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    server.cut_after = [4_000, 5_000]
    assert len(ROWS) == len(rows_of(opened(f"{server.url}/data/rows.jsonl", tmp_path)))
    assert [None, "bytes=4000-", "bytes=9000-"] == [headers.get("range") for _, headers in server.seen]


def test_a_file_that_changes_between_two_parts_is_fetched_anew_and_never_mixed(server, tmp_path):
    def change() -> None:
        server.files["/data/rows.jsonl"] = b'{"id": "new", "text": "x"}\n' * 400

    server.cut_after, server.change = [4_000], change
    assert 400 == opened(f"{server.url}/data/rows.jsonl", tmp_path).source_rows


def test_a_server_in_trouble_is_asked_again_and_then_given_up(server, tmp_path):
    server.statuses = [503, 429]
    assert len(ROWS) == opened(f"{server.url}/data/rows.jsonl", tmp_path).source_rows
    server.statuses = [503] * https_file.ATTEMPTS
    (found,) = mistakes_of(lambda: opened(f"{server.url}/data/rows.jsonl", tmp_path))
    assert "could not be fetched whole in 5 attempts: HTTP 503" in found.message


@pytest.mark.parametrize(
    ("status", "says"), [(404, "is not there"), (401, "~/.netrc"), (403, "not for these credentials")]
)
def test_a_file_that_cannot_be_had_is_told_by_its_address(server, tmp_path, status, says):
    server.statuses = [status]
    (found,) = mistakes_of(lambda: opened(f"{server.url}/data/rows.jsonl", tmp_path))
    assert (f"{server.url}/data/rows.jsonl", "input.table") == (found.file, found.key)
    assert says in found.message


def test_what_is_wrong_in_a_file_is_told_by_its_address_and_line(server, tmp_path):
    server.files["/a.jsonl"] = b'{"id": 1}\n{"id": \n'
    (found, *_) = mistakes_of(lambda: opened(f"{server.url}/a.jsonl", tmp_path))
    assert (f"{server.url}/a.jsonl", 2) == (found.file, found.line)


def test_a_certificate_that_nobody_trusts_is_refused_at_once(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    (found,) = mistakes_of(lambda: opened(f"{server.url}/data/rows.jsonl", tmp_path))
    assert "certificate is not trusted" in found.message
    assert [] == server.seen


def test_a_redirect_is_followed_to_https_alone_and_takes_no_credentials_along(server, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (home / ".netrc").chmod(0o600)
    other = server.url.replace("127.0.0.1", "localhost")
    server.replies["/moved"] = (302, {"Location": f"{other}/data/rows.jsonl"}, b"")
    server.replies["/down.jsonl"] = (302, {"Location": f"http://127.0.0.1:{server.server_port}/x"}, b"")
    server.replies["/to.jsonl"] = server.replies["/moved"]
    assert len(ROWS) == opened(f"{server.url}/to.jsonl", tmp_path).source_rows
    assert ["authorization" in headers for _, headers in server.seen] == [True, False]
    (found,) = mistakes_of(lambda: opened(f"{server.url}/down.jsonl", tmp_path))
    assert "not https" in found.message


@pytest.mark.parametrize(
    "address",
    [
        "https://me:s3cret@host.example/rows.csv",
        "https://host.example/rows.csv?X-Amz-Signature=s3cret",
        "https://host.example/rows.csv?v=1&sig=s3cret",
        "s3://key:s3cret@bucket/rows.csv",
        "postgresql://me:s3cret@host/db?query=select 1",
        "postgresql://host/db?password=s3cret&query=select 1",
    ],
)
def test_an_address_with_credentials_is_refused_without_showing_them(tmp_path, address):
    found = mistakes_of(lambda: opened(address, tmp_path, id="id"))
    assert 1 == len(found)
    assert "has no place in a job file" in found[0].message or "have no place in a job file" in found[0].message
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://host.example/rows.csv", "without TLS"),
        ("ftp://host.example/rows.csv", "read are https://"),
        ("s3://bucket", "names no file"),
        ("hf://models/a/b/c.csv", "hf://datasets/OWNER/NAME/PATH"),
        ("https://host.example/*.csv", "names no single file"),
    ],
)
def test_other_addresses_are_told_what_to_write(tmp_path, address, says):
    (found,) = mistakes_of(lambda: opened(address, tmp_path))
    assert says in found.message


def test_a_remote_file_that_is_given_twice_is_refused(server, tmp_path):
    address = f"{server.url}/data/rows.jsonl"
    (found,) = mistakes_of(lambda: opened([address, address], tmp_path))
    assert "given twice" in found.message


def test_copies_are_their_owners_alone_and_go_with_the_table(server, tmp_path):
    table = opened(f"{server.url}/data/rows.jsonl", tmp_path)
    (copy,) = table.files
    assert 0o700 == copy.parent.parent.stat().st_mode & 0o777
    del table
    assert not copy.exists()


def test_a_table_that_changed_between_two_sessions_is_refused_as_a_local_one(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(
        f"input: {{table: '{server.url}/data/rows.jsonl', id: id, limit: 20}}\nmodel: gpt-5.4\n"
        'prompt: {user: "{{ text }}"}\n'
    )
    assert 0 == crun_batch.run("job.yaml", simulate=True).exit_code
    assert 0 == crun_batch.run("job.yaml", simulate=True).exit_code
    server.files["/data/rows.jsonl"] = server.files["/data/rows.jsonl"].replace(b'Text 3"', b'Text three"')
    with pytest.raises(crun_batch.RequestsChanged, match="1 finished row "):
        crun_batch.run("job.yaml", simulate=True)


# --- the hub: replies as its documentation gives them (huggingface.co/docs/hub/api) ---

COMMIT = "8f3b0d8cd7ec0a4bbd4a3e4b0d4d7c1ea0f0a111"


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for revision in ("main", "v1"):
        server.replies[f"/api/datasets/acme/reviews/revision/{revision}"] = remote_kit.json_reply({"sha": COMMIT})
    listed = [
        {"type": "directory", "path": "data/more"},
        {"type": "file", "path": "data/b.jsonl", "size": 1},
        {"type": "file", "path": "data/more/c.jsonl", "size": 1},
    ]
    tree = f"/api/datasets/acme/reviews/tree/{COMMIT}/data?recursive=true"
    following = f'<{server.url}/api/datasets/acme/reviews/tree/{COMMIT}/data?cursor=x>; rel="next"'
    server.replies[tree] = remote_kit.json_reply(listed, Link=following)
    server.replies[f"/api/datasets/acme/reviews/tree/{COMMIT}/data?cursor=x"] = remote_kit.json_reply(
        [{"type": "file", "path": "data/a.jsonl", "size": 1}]
    )
    for name in ("data/a.jsonl", "data/b.jsonl", "data/more/c.jsonl"):
        row = json.dumps({"id": name, "text": "x"}).encode()
        server.files[f"/datasets/acme/reviews/resolve/{COMMIT}/{name}"] = row
    return server


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("data/b.jsonl", ["data/b.jsonl"]),
        ("data/*.jsonl", ["data/a.jsonl", "data/b.jsonl"]),
        ("data/**/*.jsonl", ["data/a.jsonl", "data/b.jsonl", "data/more/c.jsonl"]),
    ],
)
def test_files_of_the_hub_are_those_of_one_commit(hub, tmp_path, path, names):
    for written in ("acme/reviews", "acme/reviews@v1"):
        table = opened(f"hf://datasets/{written}/{path}", tmp_path, id="id")
        assert names == ids_of(table)
        assert all(COMMIT[:12] in name for name in table.source.names)


def test_the_token_of_the_hub_is_sent_to_the_hub_and_shown_nowhere(hub, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_s3cret\n")
    opened("hf://datasets/acme/reviews/data/a.jsonl", tmp_path)
    assert {"Bearer hf_s3cret"} == {headers.get("authorization") for _, headers in hub.seen}
    (found,) = mistakes_of(lambda: opened("hf://datasets/acme/other/data/a.jsonl", tmp_path))
    assert "is not there" in found.message
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    ("path", "pattern", "is_meant"),
    [
        ("a/b.csv", "a/*.csv", True),
        ("a/c/b.csv", "a/*.csv", False),
        ("a/c/b.csv", "a/**/*.csv", True),
        ("a/b.csv", "a/**/*.csv", True),
        ("a/b.csv", "a/b.csv", True),
        ("a/b1.csv", "a/b[12].csv", True),
    ],
)
def test_a_pattern_means_files_folder_by_folder(path, pattern, is_meant):
    assert is_meant == matches(path, pattern)
    assert path.startswith(base_of(pattern))


# --- databases ---


def test_a_query_of_sqlite_is_read_as_it_is_written_in_the_order_of_the_id(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("create table t (k integer, a text)")
        connection.executemany("insert into t values (?, ?)", [(3, "c+c"), (1, "50%"), (2, "x&y=z")])
    address = "sqlite:///a.db?query=select k + 1 as id, a from t where a like '%' and 1=1 -- all; of them"
    table = opened(address, tmp_path, id="id")
    assert [(2, "50%"), (3, "x&y=z"), (4, "c+c")] == [(row.row_id, row.values["a"]) for row in rows_of(table)]
    (found,) = mistakes_of(lambda: opened(address, tmp_path))
    assert ("input.id", True) == (found.key, "needs an `id` column" in found.message)
    for wrong in ("select nothing from t", "select 1; drop table t", "delete from t"):
        assert mistakes_of(lambda wrong=wrong: opened(f"sqlite:///a.db?query={wrong}", tmp_path, id="id"))
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert (3,) == connection.execute("select count(*) from t").fetchone()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if not remote_kit.has_postgres():
        pytest.skip("needs a PostgreSQL server's programs")
    pytest.importorskip("adbc_driver_postgresql")
    with remote_kit.postgres() as uri:
        ran(
            uri,
            "create table reviews (id bigint primary key, text text, stars real, at timestamptz, bad boolean)",
            "insert into reviews select n, 'Review ' || n, n / 2.0, timestamptz '2026-01-01Z' + n * interval '1 s'"
            ", n % 2 = 0 from generate_series(1, 1000) as s(n) order by random()",
        )
        yield uri


def ran(uri: str, *statements: str) -> None:
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()


def test_rows_of_postgresql_come_in_the_order_of_the_id(database, tmp_path):
    address = f"{database}&query=select id, text, stars, at, bad from reviews where id <= 900;"
    table = opened(address, tmp_path, id="id")
    rows = rows_of(table)
    assert list(range(1, 901)) == [row.row_id for row in rows]
    assert ("Review 7", 3.5, False) == (rows[6].values["text"], rows[6].values["stars"], rows[6].values["bad"])
    assert [pa.string(), pa.bool_()] == [table.schema.field(name).type for name in ("text", "bad")]
    assert table.fingerprint() == opened(address, tmp_path, id="id").fingerprint()


def test_a_table_of_postgresql_may_be_named(database, tmp_path):
    assert 1000 == opened(f"{database}&table=public.reviews", tmp_path, id="id").source_rows


@pytest.mark.parametrize(
    "statement",
    [
        "delete from reviews returning id",
        "with gone as (delete from reviews returning id) select * from gone",
        "select id from reviews) as x; delete from reviews; select * from (select 1 as id",
        "select id from nothing",
    ],
)
def test_nothing_but_a_selection_is_run(database, tmp_path, statement):
    (found,) = mistakes_of(lambda: opened(f"{database}&query={statement}", tmp_path, id="id"))
    assert "cannot be read" in found.message
    assert 1000 == opened(f"{database}&table=reviews", tmp_path, id="id").source_rows


def test_rows_of_postgresql_need_an_id(database, tmp_path):
    (found,) = mistakes_of(lambda: opened(f"{database}&query=select * from reviews", tmp_path))
    assert "input.id" == found.key


def test_a_database_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("adbc_driver_postgresql")
    (found,) = mistakes_of(
        lambda: opened(f"postgresql:///x?host={tmp_path}&query=select 1 as id", tmp_path, id="id")
    )
    assert "cannot be read" in found.message


def test_without_its_driver_a_database_is_told_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    (found,) = mistakes_of(lambda: opened("postgresql:///x?query=select 1 as id", tmp_path, id="id"))
    assert "crun-batch[postgresql]" in found.message


def test_files_are_fetched_several_at_a_time_in_their_order() -> None:
    """Thousands of small ones would take minutes one by one; the first that cannot be had is told."""
    both = threading.Barrier(2, timeout=10)

    def slow(path: Path) -> None:
        both.wait()
        path.write_text("slow")

    def quick(path: Path) -> None:
        both.wait()
        path.write_text("quick")

    def refused(_: Path) -> None:
        raise InputError("it is gone")

    folder = CopyFolder()
    found = list(folder.copies([RemoteFile("s3://b/1", slow), RemoteFile("s3://b/2", quick)]))
    assert [("s3://b/1", "slow"), ("s3://b/2", "quick")] == [(name, path.read_text()) for name, path in found]
    with pytest.raises(InputError, match="it is gone"):
        list(folder.copies([RemoteFile("s3://b/1", refused), RemoteFile("s3://b/2", lambda _: None)]))
