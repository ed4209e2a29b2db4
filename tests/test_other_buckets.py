"""Buckets of Google and of Azure: as those of S3, and what is refused is said within seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import run_kit
from test_table import Input, ids_of

from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.table import bucket
from crun_batch.load.table.table import open_table
from crun_batch.simulator.process import SimulatorProcess

BUCKET = "tables"


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials and no proxy of this machine."""
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "AZURE_", "STORAGE_", "CLOUDSDK_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bucket, "GCS_GIVES_UP_AFTER", timedelta(seconds=1))


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """A server that speaks as Google's does, on 127.0.0.1."""
    server_of = pytest.importorskip("gcp_storage_emulator.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = server_of.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(output_tokens_median=5, output_tokens_sigma=0) as running:
        yield running


def put(emulator: str, name: str, data: bytes) -> None:
    address = f"{emulator}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
    request = urllib.request.Request(address, data, {"Content-Type": "text/csv"}, method="POST")
    urllib.request.urlopen(request).close()


def opened(address: str, folder: Path) -> Any:
    return open_table(Input(address, id="id"), folders=Folders(folder))


def test_a_file_and_a_pattern_of_google_are_tables(
    emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    put(emulator, "a.csv", b"id,text\n1,x\n2,y\n")
    put(emulator, "b.csv", b"id,text\n3,z\n")
    assert [1, 2] == ids_of(opened(f"gs://{BUCKET}/a.csv", tmp_path))
    assert [1, 2, 3] == ids_of(opened(f"gs://{BUCKET}/*.csv", tmp_path))
    with pytest.raises(InputError, match="is not there"):
        opened(f"gs://{BUCKET}/c.csv", tmp_path)


def test_a_run_is_published_at_google(
    emulator: str, gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, byte for byte, by its list."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    output = {"dir": str(tmp_path / "run"), "publish": f"gs://{BUCKET}/published"}
    done = run_kit.run(run_kit.job(gateway, tmp_path, output=output), run_kit.texts(5))
    assert 0 == done.exit_code
    with urllib.request.urlopen(f"{emulator}/{BUCKET}/published/published.json") as reply:
        document = json.loads(reply.read())
    assert document["is_whole"]
    for name in document["files"]:
        with urllib.request.urlopen(f"{emulator}/{BUCKET}/published/{name}") as reply:
            assert (done.directory / name).read_bytes() == reply.read()


@pytest.mark.parametrize("address", ["gs://nobodys/a", "az://nobodys/a"])
def test_without_credentials_it_is_said_what_to_set(
    address: str, gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within seconds, as a mistake of the input and none of ours; of a publication before anything is sent."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "nobody")
    monkeypatch.setenv("PATH", "")  # no command of a cloud that is asked for a token
    with pytest.raises(InputError) as refused:
        opened(f"{address}.csv", tmp_path)
    assert "credentials: " in refused.value.mistakes[0].message
    before = gateway.ledger()["count"]
    output = {"dir": str(tmp_path / "run"), "publish": address}
    with pytest.raises(InputError, match="cannot be written to"):
        run_kit.run(run_kit.job(gateway, tmp_path, output=output), run_kit.texts(2))
    assert before == gateway.ledger()["count"]


def test_a_command_loads_the_file_systems_of_clouds_where_it_opens_a_bucket() -> None:
    """They take memory, which a run without a bucket need not have."""
    script = """
from crun_batch.cli.lean import load_arrow_for
load_arrow_for(["run", "no-such-job"])
import sys, pyarrow.fs
print("pyarrow._s3fs" in sys.modules, "S3FileSystem" in vars(pyarrow.fs))
from crun_batch.load.table.bucket import s3_file_system
print(s3_file_system({"AWS_REGION": "eu-west-1"}).region)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "False False\neu-west-1\n" == done.stdout
