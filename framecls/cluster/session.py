"""Ray itself: whether it is there, and a connection to it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framecls import packages
from framecls.cluster.signals import changed, end_in_order, hold_sigterm
from framecls.errors import ClusterError, UsageError

AUTO = "auto"  # the cluster that runs on this machine
_KNOCK_S = 10.0
# Of a Ray that is started here: results of a few inputs wait in it, and a disk takes what does not fit.
_STORE_BYTES = 256 << 20


def require_ray() -> None:
    """Raise a PackageError if ray is not installed."""
    packages.require("a cluster", "ray")


@contextmanager
def open_session(address: str | None, n_cpus: int) -> Iterator[Any]:
    """Yield the module ray, connected; where this process was connected before, it stays so afterwards.

    Args:
        address: HOST:PORT of a cluster, or "auto" for the one on this machine; None: what RAY_ADDRESS names, or else a
            Ray of this machine alone, which ends with the block.
        n_cpus: how many CPUs a Ray of this machine alone may count on.

    Raises:
        PackageError: ray is not installed or does not load.
        UsageError: the address is none, or this process is connected already.
        ClusterError: no cluster answers there, or it is of another kind.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    ray: Any = packages.load("a cluster", "ray")
    # What its processes report it prints to stdout, which is for data, also where it was told to keep logs to itself.
    with changed(ray, "worker", "_worker_logs_enabled", False):
        if address is None and ray.is_initialized():
            yield ray
            return
        is_ours = not ray.is_initialized()
        with end_in_order():
            try:
                with hold_sigterm(ray):
                    _connect(ray, address or os.environ.get("RAY_ADDRESS"), n_cpus)
                yield ray
            finally:
                if is_ours:
                    with hold_sigterm(ray):
                        ray.shutdown()


def _connect(ray: Any, address: str | None, n_cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is not None:
        _knock(address)
    if ray.is_initialized():
        raise UsageError(f"this program is connected to a Ray already: leave {address} out to use that one")
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=n_cpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:  # it leaves by SystemExit when a cluster stops answering meanwhile
        reason = " ".join(str(error).split())
        if address is None:
            raise ClusterError(f"Ray does not start: {reason}") from error
        hint = "; if it wants a token, set RAY_AUTH_MODE=token" if isinstance(error, ConnectionError) else ""
        raise ClusterError(f"the Ray cluster at {address} cannot be used: {reason}{hint}") from error


def _knock(address: str) -> None:
    """See that somebody is there: ray itself tries for minutes.

    Raises:
        UsageError: that is no address.
        ClusterError: nobody answers.
    """
    if address == AUTO:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{address!r} is no address of a Ray cluster: HOST:PORT, or auto for one on this machine")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"no Ray cluster answers at {address} ({reason}): ray start --head starts one and says its address"
        ) from error
