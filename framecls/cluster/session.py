"""Connect to Ray, or start it."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framecls import packages
from framecls.cluster.signals import end_in_order, hold_sigterm
from framecls.errors import ClusterError, UsageError
from framecls.text import one_line

AUTO = "auto"  # the cluster that runs on this machine
# How long to wait for an answer at an address: Ray itself tries for minutes.
_KNOCK_S = 20.0
# What an HTTP/2 connection begins with, and so gRPC's, which Ray speaks: a fixed text and an empty frame of settings.
# The server answers with a frame of settings: three bytes of length, then its type (RFC 9113, sections 3.4 and 4.1).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
# Every Ray listens on all network interfaces, and whoever reaches one of its ports can run programs here. From the
# first of these versions on it can ask for a token, from the second on it does so by itself on a Ray that it starts.
_KNOWS_TOKENS, _WANTS_TOKENS = (2, 52), (2, 59)
_AUTH_MODE = "RAY_AUTH_MODE"
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    # The handler that Ray puts beneath Python's prints a stack, and aborts what takes 3 s from then on.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    target = address or os.environ.get("RAY_ADDRESS")
    was_imported = "ray" in sys.modules
    if target is None and not was_imported:
        os.environ.setdefault(_AUTH_MODE, "token")  # Ray looks at it when it is imported, and not again
    ray: Any = packages.load("a cluster", "ray")
    _require_tokens(ray.__version__, starts_here=target is None and was_imported and not ray.is_initialized())
    if address is None and ray.is_initialized():
        yield ray
        return
    is_ours = not ray.is_initialized()
    with end_in_order():
        try:
            with hold_sigterm():
                _connect(ray, target, n_cpus)
            yield ray
        finally:
            if is_ours:
                with hold_sigterm():
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
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and (address is None or error.code == signal.SIGTERM):
            raise  # its handler of SIGTERM; otherwise, the cluster has stopped answering meanwhile
        reason = one_line(str(error))
        if address is None:
            raise ClusterError(f"Ray does not start: {reason}") from error
        hint = "; if it wants a token, set RAY_AUTH_MODE=token" if isinstance(error, ConnectionError) else ""
        raise ClusterError(f"the Ray cluster at {address} cannot be used: {reason}{hint}") from error


def _require_tokens(version: str, *, starts_here: bool) -> None:
    """Refuse a Ray whose ports accept anybody without a token.

    Args:
        version: of Ray.
        starts_here: a Ray is to be started by a module that was imported before anything could be said to it.

    Raises:
        UsageError: it knows no tokens, or was not told to ask for them.
    """
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if known < _KNOWS_TOKENS:
        raise UsageError(
            f"Ray {version} lets everybody on the network run programs here: install ray "
            f"{'.'.join(map(str, _KNOWS_TOKENS))} or later, which asks for a token"
        )
    if starts_here and known < _WANTS_TOKENS and _AUTH_MODE not in os.environ:
        raise UsageError(f"set {_AUTH_MODE}=token before ray is imported: else everybody on the network can use it")


def _knock(address: str) -> None:
    """Check that a gRPC server answers at an address.

    Raises:
        UsageError: that is no address.
        ClusterError: nobody answers, or somebody else.
    """
    if address == AUTO:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{address!r} is no address of a Ray cluster: HOST:PORT, or auto for one on this machine")
    try:
        answer = _greet((host.strip("[]"), int(port)))
    except (OSError, OverflowError) as error:
        silent = isinstance(error, TimeoutError)
        reason = f"silent for {_KNOCK_S:g} s" if silent else getattr(error, "strerror", None) or error
        raise ClusterError(
            f"no Ray cluster answers at {address} ({reason}): ray start --head starts one and says its address"
        ) from error
    is_encrypted = os.environ.get("RAY_USE_TLS", "0") not in ("", "0")  # then it refuses what is not
    if not is_encrypted and answer[3:4] != bytes([_SETTINGS]):
        raise ClusterError(f"what answers at {address} is no Ray cluster: ray start --head says the address of one")


def _greet(address: tuple[str, int]) -> bytes:
    """Return the beginning of what a server answers to the greeting of HTTP/2.

    Raises:
        OSError: nobody is there, or silent.
    """
    deadline = time.monotonic() + _KNOCK_S
    with socket.create_connection(address, _KNOCK_S) as connection:
        connection.sendall(_HELLO)
        answer = b""
        while len(answer) <= 3:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(1024)
            if not part:
                break
            answer += part
        return answer
