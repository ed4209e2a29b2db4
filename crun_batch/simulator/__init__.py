"""The bundled gateway: a real HTTP server on loopback that answers, counts, charges and fails as it is told."""

from __future__ import annotations

from crun_batch.simulator.command import serve
from crun_batch.simulator.process import SimulatorProcess, start_simulator
from crun_batch.simulator.server import Simulator
from crun_batch.simulator.settings import Model, Settings, read_settings

__all__ = ["Model", "Settings", "Simulator", "SimulatorProcess", "read_settings", "serve", "start_simulator"]
