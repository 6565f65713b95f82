"""A daemon with some maps and policies, each on a free port, and one-line ways to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kit import ports
from kit.clients import Policy, SocketMap
from kit.configuration import configuration, listener
from kit.daemon import Daemon


class Site:
    """One listener serves all socket maps; each policy service has its own, by its name in `policy_ports`."""

    def __init__(
        self,
        socket_maps: Mapping[str, Any] | None = None,
        policy_services: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        **server: Any,
    ) -> None:
        self.map_port = ports.free()
        self.policy_ports = {name: ports.free() for name in policy_services or {} if name != "defaults"}
        listeners = [listener("socket_map", "maps", self.map_port)] if socket_maps else []
        listeners += [listener("policy_service", name, port) for name, port in self.policy_ports.items()]
        self.config = configuration(*listeners, socket_maps=socket_maps, policy_services=policy_services, **server)
        self.daemon = Daemon(self.config, environment=environment)
        self.log = self.daemon.log

    def client(self, timeout: float = 10.0) -> SocketMap:
        return SocketMap(("127.0.0.1", self.map_port), timeout)

    def policy_client(self, name: str, timeout: float = 10.0) -> Policy:
        return Policy(("127.0.0.1", self.policy_ports[name]), timeout)

    def ask(self, name: str, key: str | bytes) -> str:
        """One lookup on a connection of its own."""
        with self.client() as client:
            return client.ask(name, key)

    def act(self, name: str, attributes: Mapping[str, str] | None = None, **more: str) -> str:
        """One policy request on a connection of its own; the action."""
        with self.policy_client(name) as client:
            return client.ask({**(attributes or {}), **more})

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.daemon.__exit__(kind, *rest)
