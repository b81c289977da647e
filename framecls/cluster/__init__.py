"""Run a model on many machines: processes of Ray each hold a copy, and results come in order as from a single one.

    from framecls.cluster import connect

    with connect("sound", address="auto") as model:
        for result in model.tag_many(paths): ...

Importing this imports neither ray nor torch.
"""

from __future__ import annotations

from framecls.cluster.model import CLUSTER_DEVICES, ClusterModel, connect
from framecls.cluster.session import require_ray

__all__ = ["CLUSTER_DEVICES", "ClusterModel", "connect", "require_ray"]
