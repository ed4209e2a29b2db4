"""The example for Kubernetes: as its published schema has it, and as our exit codes mean it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from crun_batch import errors
from crun_batch.scale.exchange import TOKEN_NAME
from crun_batch.scale.giver import GOES_ON_WITHOUT
from crun_batch.scale.restarts import COMES_AGAIN

FILE = Path(__file__).parent.parent / "examples" / "kubernetes" / "job.yaml"
DOCUMENTS = {f"{one['kind']} {one['metadata']['name']}": one for one in YAML(typ="safe").load_all(FILE)}
WORKERS, COORDINATOR = DOCUMENTS["Job label-reviews"], DOCUMENTS["Job label-reviews-coordinator"]
EXIT_CODES = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
ENDS = {code for code in GOES_ON_WITHOUT if code not in COMES_AGAIN}
"""Exit codes with which a shard has ended."""


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_it_is_what_kubernetes_takes(version: str):
    """Strictly: no key is unknown, in the first version in which all of them are stable and in a later one."""
    for document in DOCUMENTS.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_find_a_mistake():
    wrong = {**WORKERS, "spec": {**WORKERS["spec"], "backofLimitPerIndex": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimitPerIndex"):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


@pytest.mark.parametrize(("job", "action"), [(WORKERS, "FailIndex"), (COORDINATOR, "FailJob")])
def test_what_no_start_helps_is_not_started_again(job: dict[str, Any], action: str):
    """Exactly those exit codes that end all workers fail at once; all others end in order or come again."""
    rule = job["spec"]["podFailurePolicy"]["rules"][0]
    assert EXIT_CODES - {*GOES_ON_WITHOUT, *COMES_AGAIN} == set(rule["onExitCodes"]["values"])
    assert action == rule["action"]
    assert {0, 1, 4} == ENDS


def test_all_shards_are_started_and_find_the_coordinator():
    """As many as the coordinator waits for, at the port of its service, with its token from one secret."""
    spec, service = WORKERS["spec"], DOCUMENTS["Service label-reviews-coordinator"]
    (worker,), (coordinator,) = (job["spec"]["template"]["spec"]["containers"] for job in (WORKERS, COORDINATOR))
    count, port = spec["completions"], service["spec"]["ports"][0]["port"]
    assert f"--shards {count} --host 0.0.0.0 --port {port}" in coordinator["args"][0]
    assert f"--shard $((JOB_COMPLETION_INDEX + 1))/{count}" in worker["args"][0]
    assert f"http://{service['metadata']['name']}:{port}" in worker["args"][0]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": COORDINATOR["metadata"]["name"]}
    assert worker["envFrom"] == coordinator["envFrom"] and TOKEN_NAME in FILE.read_text()


def shell(job: dict[str, Any], folder: Path, does: str) -> subprocess.Popen[bytes]:
    """A container's command, with a crun-batch that does this."""
    program = folder / "crun-batch"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/given\n{does}\n')
    program.chmod(0o755)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "2"}
    return subprocess.Popen([*container["command"], *container["args"]], env=environ)


@pytest.mark.parametrize("job", [WORKERS, COORDINATOR], ids=["worker", "coordinator"])
def test_an_end_of_a_shard_is_no_failure_of_its_pod(job: dict[str, Any], tmp_path: Path):
    """All other exit codes reach Kubernetes as they are."""
    for code in sorted(EXIT_CODES):
        assert (0 if code in ENDS else code) == shell(job, tmp_path, f"exit {code}").wait(30)
    given = (tmp_path / "given").read_text()
    assert "coordinator " in given if job is COORDINATOR else "--shard 3/8" in given


@pytest.mark.parametrize("job", [WORKERS, COORDINATOR], ids=["worker", "coordinator"])
def test_a_pod_that_is_told_to_go_keeps_what_is_in_flight(job: dict[str, Any], tmp_path: Path):
    """SIGTERM reaches the program, whose own end is waited for."""
    drains = f"trap 'sleep 0.2; touch {tmp_path}/drained; exit 143' TERM"
    does = f"{drains}; touch {tmp_path}/begun; while :; do sleep 0.05; done"
    process = shell(job, tmp_path, does)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(30) and (tmp_path / "drained").exists()
