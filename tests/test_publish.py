"""Laws of `output.publish`: what is final is in the bucket, whole and by its hash, also where a run broke off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import polars as pl
import pytest
import run_kit
from test_table import Input, ids_of

import crun_batch
from crun_batch import InputError, Job
from crun_batch.errors import DiskFailed
from crun_batch.load.folders import Folders
from crun_batch.load.table.bucket import s3_file_system
from crun_batch.load.table.table import open_table
from crun_batch.session import publication
from crun_batch.simulator.process import SimulatorProcess

moto = pytest.importorskip("moto.server")
BUCKET = "runs"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on 127.0.0.1."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def environment(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-s3cret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    system = s3_file_system()
    _create_bucket(s3)
    yield system


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _create_bucket(s3: str) -> None:
    request = urllib.request.Request(f"{s3}/{BUCKET}", method="PUT")
    with DIRECT.open(request):
        pass


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(output_tokens_median=5, output_tokens_sigma=0) as running:
        yield running


def read(path: str) -> bytes:
    """One GET: whole, also while the object is replaced (Arrow asks for the length first)."""
    with DIRECT.open(f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}/{path}") as reply:
        return bytes(reply.read())


def listed(prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(f"{prefix}/published.json"))
    return found


def assert_whole(prefix: str, run: Path) -> None:
    """Everything that the list names is there, byte for byte; the results are those of the run directory."""
    document = listed(prefix)
    for name, one in document["files"].items():
        data = read(f"{prefix}/{name}")
        assert (one["bytes"], one["sha256"]) == (len(data), sha256(data).hexdigest())
    assert (run / "results.parquet").read_bytes() == read(f"{prefix}/results.parquet")
    assert {path.name for path in (run / "attempts").glob("*.parquet")} == {
        name.removeprefix("attempts/") for name in document["files"] if name.startswith("attempts/")
    }
    assert not [name for name in document["files"] if name.startswith("journal")]


# --- reading from a bucket ---


def test_a_file_and_a_pattern_of_a_bucket_are_tables(environment, tmp_path):
    for name in ("a", "b"):
        path = tmp_path / f"{name}.parquet"
        pl.DataFrame({"id": [f"{name}1", f"{name}2"]}).write_parquet(path)
        with environment.open_output_stream(f"{BUCKET}/tables/{name}.parquet") as stream:
            stream.write(path.read_bytes())
    one = open_table(Input(f"s3://{BUCKET}/tables/a.parquet", id="id"), folders=Folders(tmp_path))
    both = open_table(Input(f"s3://{BUCKET}/tables/*.parquet", id="id"), folders=Folders(tmp_path))
    assert (["a1", "a2"], ["a1", "a2", "b1", "b2"]) == (ids_of(one), ids_of(both))
    assert (f"s3://{BUCKET}/tables/a.parquet",) == one.source.names


@pytest.mark.parametrize("name", ["nothing.csv", "no/*.csv"])
def test_what_is_not_in_a_bucket_is_told(tmp_path, name):
    with pytest.raises(InputError) as refused:
        open_table(Input(f"s3://{BUCKET}/{name}"), folders=Folders(tmp_path))
    assert f"s3://{BUCKET}/{name}" == refused.value.mistakes[0].file


def test_a_packed_file_of_a_bucket_stays_packed(environment, tmp_path):
    import gzip

    with environment.open_output_stream(f"{BUCKET}/packed.csv.gz", compression=None) as stream:
        stream.write(gzip.compress(b"id,a\n1,x\n"))
    assert [1] == ids_of(open_table(Input(f"s3://{BUCKET}/packed.csv.gz", id="id"), folders=Folders(tmp_path)))


# --- publishing ---


def job(gateway: SimulatorProcess, folder: Path, prefix: str, **keys: Any) -> Job:
    output = {"dir": str(folder / "run"), "publish": f"s3://{BUCKET}/{prefix}"}
    return run_kit.job(gateway, folder, output=output, **keys)


def test_what_is_final_is_published_whole_at_the_end(gateway, tmp_path):
    done = run_kit.run(job(gateway, tmp_path, "one"), run_kit.texts(30))
    assert 0 == done.exit_code
    assert_whole("one", done.directory)
    document = listed("one")
    assert (True, "law") == (document["is_whole"], document["run"]["name"])
    assert b"s3cret" not in b"".join(read(f"one/{name}") for name in document["files"])


def test_a_run_that_goes_on_publishes_what_is_new(gateway, tmp_path):
    spec = job(gateway, tmp_path, "two")
    first = run_kit.run(spec, run_kit.texts(20), limit=10)
    before = listed("two")["files"]
    done = run_kit.run(spec, run_kit.texts(20))
    after = listed("two")["files"]
    assert before["attempts/000001.parquet"] == after["attempts/000001.parquet"]
    assert len(after) > len(before)
    assert first.directory == done.directory
    assert_whole("two", done.directory)


def test_a_place_of_another_run_is_refused_before_anything_is_sent(gateway, tmp_path):
    run_kit.run(job(gateway, tmp_path / "a", "three"), run_kit.texts(3))
    before, sent = listed("three"), gateway.ledger()["count"]
    with pytest.raises(InputError, match="holds another run"):
        run_kit.run(job(gateway, tmp_path / "b", "three"), run_kit.texts(3))
    assert (before, sent) == (listed("three"), gateway.ledger()["count"])
    assert not (tmp_path / "b" / "run").exists()


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_sent(gateway, tmp_path):
    sent = gateway.ledger()["count"]
    spec = job(gateway, tmp_path, "x").with_overrides({"output.publish": "s3://no-such-bucket/x"})
    with pytest.raises(InputError, match="cannot be written to"):
        run_kit.run(spec, run_kit.texts(3))
    assert sent == gateway.ledger()["count"]


@pytest.mark.parametrize("address", ["s3://bucket", "/some/where", "https://host/x", "s3://key:secret@bucket/x"])
def test_only_a_place_in_a_bucket_is_taken(address):
    with pytest.raises(InputError, match="without credentials"):
        Job(model="m", prompt={"user": "x"}, output={"publish": address})


def test_bytes_that_do_not_arrive_as_they_were_sent_are_seen(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr(publication.Publication, "_digest", lambda *_: "0" * 64)
    with pytest.raises(DiskFailed, match="not what was written"):
        run_kit.run(job(gateway, tmp_path, "four"), run_kit.texts(3))
    assert {} == listed("four")["files"]
    monkeypatch.undo()


def test_a_publication_that_failed_is_completed_by_the_same_run_started_again(gateway, tmp_path, monkeypatch):
    real = publication.Publication._put
    failures = iter([OSError("the network is down")])

    def put(self: Any, file: Any) -> Any:
        if file.name == "results.parquet" and (error := next(failures, None)) is not None:
            raise error
        return real(self, file)

    monkeypatch.setattr(publication.Publication, "_put", put)
    spec = job(gateway, tmp_path, "five")
    with pytest.raises(DiskFailed, match="the network is down"):
        run_kit.run(spec, run_kit.texts(5))
    assert not listed("five")["is_whole"]
    sent = gateway.ledger()["count"]
    done = run_kit.run(spec, run_kit.texts(5))
    assert (0, sent) == (done.exit_code, gateway.ledger()["count"])
    assert_whole("five", done.directory)


KILLED = """
import os, signal, sys, json
import crun_batch
from crun_batch.session import publication
real, name = publication.Publication._put, {name!r}
def put(self, file):
    if file.name.startswith(name):
        if {after}:
            real(self, file)
        else:
            target = f"{{self._folder}}/{{file.name}}"
            stream = self._system.open_output_stream(target, compression=None)
            stream.write(file.path.read_bytes()[:10])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, file)
publication.Publication._put = put
crun_batch.run("job.yaml")
"""


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("name", ["attempts/", "results.parquet", "summary.json"])
def test_a_kill_in_a_publication_leaves_nothing_half_and_is_gone_on_with(
    gateway, tmp_path, monkeypatch, name, after
):
    monkeypatch.chdir(tmp_path)
    prefix = f"killed-{name.strip('/').replace('.', '-')}-{after}"
    monkeypatch.setenv("SIM_KEY", "ak_sim_test")
    run_kit.texts(8).write_csv("rows.csv")
    tree = json.loads(json.dumps(job(gateway, tmp_path, prefix).public_dict()))
    tree["input"] = {"table": "rows.csv", "id": "id"}
    Path("job.json").write_text(json.dumps(tree))
    script = KILLED.format(name=name, after=after).replace("job.yaml", "job.json")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert -signal.SIGKILL == done.returncode, done.stderr
    document = listed(prefix)
    assert not document["is_whole"]
    for file, one in document["files"].items():
        assert one["sha256"] == sha256(read(f"{prefix}/{file}")).hexdigest()
    sent = gateway.ledger()["count"]
    run = crun_batch.run("job.json")
    assert (0, sent) == (run.exit_code, gateway.ledger()["count"])
    assert_whole(prefix, run.directory)


def test_sealed_attempts_are_published_while_the_run_goes_on(tmp_path, monkeypatch):
    """Long before its end: what one needs to look at a run from elsewhere."""
    from crun_batch.options import Platform
    from crun_batch.store.journal import JournalSettings

    monkeypatch.setattr(publication, "EVERY_SECONDS", 0.05)
    settings = JournalSettings(segment_bytes=20_000)
    seen: list[int] = []

    def watch(_: Any) -> None:
        files = listed("six")["files"]
        seen.append(sum(name.startswith("attempts/") for name in files))

    with run_kit.simulator(latency_seconds=0.3, output_tokens_median=5, output_tokens_sigma=0) as slow:
        spec = job(slow, tmp_path, "six", limits={"concurrency": 8, "adaptive": False})
        done = run_kit.run(spec, run_kit.texts(120), watch=watch, platform=Platform(journal=settings))
    assert_whole("six", done.directory)
    assert max(seen[:-1]) > 0


def test_a_simulated_run_is_not_published(gateway, tmp_path):
    run_kit.run(job(gateway, tmp_path, "seven"), run_kit.texts(3), simulate=True)
    with pytest.raises(HTTPError):
        listed("seven")
