"""Fixtures that stand in several modules; a module's own of the same name goes before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from bill_kit import PLAIN, gateway
from hypothesis import settings

from crun_batch.simulator import SimulatorProcess
from crun_batch.vocabulary import process

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")  # how long an example takes is the machine's, and no law of ours
process.IDLE_SECONDS = 60.0  # one for all tests that count in this process: to start each takes 60 ms

sys.dont_write_bytecode = False  # else each of the many processes that tests start compiles the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of this machine's environment."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatorProcess]:
    """A gateway of the bill's tests, for a whole module."""
    with gateway() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: SimulatorProcess) -> SimulatorProcess:
    """The same, its settings as they were."""
    shared.change(**PLAIN)
    return shared
