"""A Ray cluster of several nodes on this machine, reached by its loopback alone. A node dies as a machine does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from crun_batch.scale.ray_cluster import LOOPBACK

NODES, CPUS = 2, 4
SETTINGS = {"health_check_period_ms": 1000, "enable_worker_prestart": False, "worker_niceness": 0}
"""A node that died is found out within seconds; one that is slow has as long as ever to answer. Actors do not come
last on this machine."""
MOST_STARTS = 4
"""Of a node, on a machine that others use too."""
PLACE = LOOPBACK.get("_node_ip_address", "127.0.0.1")


class Nodes:
    """The nodes that have CPUs, by number from 1. Whoever dies is replaced by another of the same number."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._nodes = [self._added() for _ in range(NODES)]

    @property
    def address(self) -> str:
        """Where drivers find the cluster: its head, which has no CPU."""
        address: str = self._cluster.address
        return address

    def living(self) -> dict[int, int]:
        """Number -> the process of its raylet."""
        found = {number: _raylet(node) for number, node in enumerate(self._nodes, 1)}
        return {number: raylet.pid for number, raylet in found.items() if raylet.poll() is None}

    def replace_dead(self) -> None:
        """As whoever keeps a cluster does; takes seconds."""
        for number, node in enumerate(self._nodes):
            if _raylet(node).poll() is not None:
                self._cluster.remove_node(node, allow_graceful=False)
                self._nodes[number] = self._added()

    def _added(self) -> Any:
        for _ in range(MOST_STARTS - 1):
            with suppress(Exception):  # Ray gives it 30 s, and raises nothing more special; it may join later
                return self._started()
        return self._started()

    def _started(self) -> Any:
        return self._cluster.add_node(num_cpus=CPUS, node_ip_address=PLACE)


@contextmanager
def nodes_of_this_machine(environ: Mapping[str, str]) -> Iterator[Nodes]:
    """Its nodes have `environ`, and each some CPUs; the head has none."""
    os.environ.update({**environ, "RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "node_ip_address": PLACE, "include_dashboard": False, "_system_config": SETTINGS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()


def _raylet(node: Any) -> Any:
    (raylet,) = node.all_processes["raylet"]
    return raylet.process
