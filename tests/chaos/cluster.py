"""A Ray cluster of several nodes on this machine, reached by its loopback alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from crun_batch.scale.on_ray import LOOPBACK

NODES, CPUS = 2, 2


@contextmanager
def nodes_of_this_machine(environ: Mapping[str, str]) -> Iterator[str]:
    """Its address. Its nodes have `environ`, and each some CPUs; the head has none."""
    os.environ.update({**environ, "RAY_USAGE_STATS_ENABLED": "0"})
    from ray.cluster_utils import Cluster

    place = LOOPBACK.get("_node_ip_address", "127.0.0.1")
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "node_ip_address": place, "include_dashboard": False},
    )
    try:
        for _ in range(NODES):
            nodes.add_node(num_cpus=CPUS, node_ip_address=place)
        yield nodes.address
    finally:
        nodes.shutdown()
