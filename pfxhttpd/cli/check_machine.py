"""What this machine lacks for a configuration: files, users, directories and addresses, as far as the caller can see."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from pfxhttpd.config.errors import Problem
from pfxhttpd.config.load import Loaded
from pfxhttpd.config.node import Node
from pfxhttpd.config.settings import Settings
from pfxhttpd.io import SetupError, control, jail, listen, otlp, tls
from pfxhttpd.process import capacity
from pfxhttpd.process.generation import import_metrics, metrics_listener

WORKER_MEMORY = 8 << 20
"""Bytes of memory that a worker has for itself."""
RESERVED_DESCRIPTORS = 64
DESCRIPTORS_OF_A_WORKER = 2
"""Descriptors of the master for each worker: its channel, and that of its successor during a reload."""


def problems(loaded: Loaded) -> list[Problem]:
    """Everything for which the server would refuse to start."""
    server, root = loaded.settings.server, loaded.tree
    found = [*_capacity_problems(loaded), *_tls_problems(loaded)]
    for key, error in jail.check(server.run_as_user, server.run_as_group, server.chroot):
        found.append(_node(root, "server", key).problem(_without_prefix(str(error))))
    found += _directory_problems(loaded)
    try:
        otlp.load(server.observability)
    except SetupError as error:
        found.append(_node(root, "server", "observability", "otel_enabled").problem(str(error)))
    nodes = _node(root, "server", "listen").value
    for listener, node in zip(server.listen, nodes, strict=True):
        try:
            listen.check(listener)
        except SetupError as error:
            found.append((node.get("address") or node).problem(str(error)))
    return [*found, *_metrics_problems(loaded)]


def _capacity_problems(loaded: Loaded) -> Iterator[Problem]:
    try:
        capacity.check(loaded.settings)
    except SetupError as error:
        yield loaded.tree.problem(str(error))


def _directory_problems(loaded: Loaded) -> Iterator[Problem]:
    """The runtime directory, if it is configured. Whose it has to be is known only where the file names the user."""
    server = loaded.settings.server
    if not server.runtime_directory:
        return
    try:
        identity = jail.resolve(server.run_as_user, server.run_as_group, server.chroot)
    except SetupError:
        return  # reported by `jail.check`, or to be started by root
    try:
        control.check_directory(server.runtime_directory, (identity.uid, identity.gid) if identity.drops else None)
    except SetupError as error:
        if identity.drops or not error.permission:
            yield _node(loaded.tree, "server", "runtime_directory").problem(_without_prefix(str(error)))


def _tls_problems(loaded: Loaded) -> Iterator[Problem]:
    try:
        tls.context(loaded.settings.server.tls)
    except SetupError as error:
        what, _, text = str(error).partition(": ")
        key = what.removeprefix("server.tls.")
        node = _node(loaded.tree, "server", "tls", key if what.startswith("server.tls.") else "enabled")
        yield node.problem(text if key != what else str(error))


def _metrics_problems(loaded: Loaded) -> Iterator[Problem]:
    watched = loaded.settings.server.observability
    block = _node(loaded.tree, "server", "observability")
    if not watched.prometheus_enabled:
        return
    try:
        import_metrics()
    except SetupError as error:
        yield _node(block, "prometheus_enabled").problem(_without_prefix(str(error)))
    try:
        listen.check(metrics_listener(watched))
    except SetupError as error:
        yield _node(block, "prometheus_address").problem(str(error))
    try:
        if watched.prometheus_tls.enabled:
            tls.server_context(watched.prometheus_tls)
    except SetupError as error:
        what, _, text = str(error).partition(": ")
        yield _node(block, "prometheus_tls", what.rpartition(".")[2]).problem(text)


def _without_prefix(text: str) -> str:
    """The error without the key that it begins with: the problem's path names it."""
    return text.partition(": ")[2] or text


def _node(root: Node, *keys: str) -> Node:
    """The node at the path, or the nearest one above it."""
    node = root
    for key in keys:
        node = node.get(key) or node.child(key, None)
    return node


def unseen(settings: Settings) -> Iterator[str]:
    """What cannot be checked from here, in words for the end of "not checked: "."""
    server = settings.server
    for listener in server.listen:
        if listener.systemd_socket_name:
            yield f"the socket {listener.systemd_socket_name}, which systemd passes"
    if os.geteuid() != 0 and (server.run_as_user or server.run_as_group or server.chroot):
        yield "whether files can be read and ports be bound by root, who has to start this configuration"


def too_many_workers(settings: Settings) -> Iterator[str]:
    """Why this machine cannot hold the configured number of workers."""
    server = settings.server
    workers = capacity.workers(settings)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = workers * WORKER_MEMORY
    if wanted > memory:
        yield f"{workers} workers take about {wanted >> 20} MB of memory, and this machine has {memory >> 20} MB"
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if workers * DESCRIPTORS_OF_A_WORKER + RESERVED_DESCRIPTORS > limit:
        yield f"{workers} workers need more file descriptors than the limit allows (RLIMIT_NOFILE is {limit})"
    if server.max_connections > limit:
        yield f"max_connections is {server.max_connections}, and RLIMIT_NOFILE allows {limit}"
