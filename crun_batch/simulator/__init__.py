"""The bundled gateway: a real HTTP server on loopback that answers, counts, charges and fails as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crun_batch.simulator.process import SimulatorProcess, start_simulator
from crun_batch.simulator.settings import Model, Settings, read_settings

if TYPE_CHECKING:
    from crun_batch.simulator.command import serve
    from crun_batch.simulator.server import Simulator

__all__ = ["Model", "Settings", "Simulator", "SimulatorProcess", "read_settings", "serve", "start_simulator"]


def __getattr__(name: str) -> Any:
    """Load the server on first use: who starts it in a process of its own does not need it."""
    if name == "Simulator":
        from crun_batch.simulator.server import Simulator

        return Simulator
    if name == "serve":
        from crun_batch.simulator.command import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
