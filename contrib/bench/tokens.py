"""What tokens cost: the token that requests to a backend bear, and the validation of a user's JWT."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from .backends import fixed_backend
from .bench import Bench, Contender, Servers
from .load import Load
from .provider import TOKEN, Provider
from .results import Sample
from .server import HERE

FIXED, BEARER = "map, 4 clients, fixed Authorization", "map, 4 clients, backend_oidc_auth"
VALIDATION = "validation of a JWT"
WORKERS = 4


def tokens(bench: Bench) -> Iterator[Sample]:
    """Lookups with a token of the provider against lookups with a fixed header of the same length; and verify.py.

    A version that has no tokens is left out.
    """
    with Servers() as servers, Provider() as provider:
        backend = servers.start(fixed_backend(bench.directory))
        oidc = {
            "enabled": True,
            "configuration_uri": provider.configuration_uri,
            "client_id": "bench",
            "client_secret": "secret",
        }
        entries: dict[str, dict[str, Any]] = {
            FIXED: {"custom_headers": [f"Authorization: Bearer {TOKEN}"]},
            BEARER: {"backend_oidc_auth": oidc},
        }
        builds = [build for build in bench.builds if (build.tree / "pfxhttpd/service/oidc").is_dir()]
        with_tokens = Bench(bench.directory, bench.generator, builds, bench.repetitions, bench.seconds)
        contenders = {
            scene: [
                Contender(
                    daemon.build.name, daemon, daemon.port, (FIXED, daemon.build.name) if scene != FIXED else None
                )
                for daemon in with_tokens.start_builds(
                    servers, backend.url, workers=WORKERS, options={"logging": {"level": "error"}}, entry=entry
                )
            ]
            for scene, entry in entries.items()
        }
        for repetition in range(bench.repetitions):
            for scene in sorted(contenders, reverse=bool(repetition % 2)):
                yield from bench.compare(servers, scene, Load("map"), contenders[scene], repetition)
            for build in builds:
                command = [build.python, str(HERE / "verify.py"), str(bench.seconds / 3)]
                done = subprocess.run(command, env=build.environment(), stdout=subprocess.PIPE, check=True)
                figures = {f"{name}, µs of processor": each for name, each in json.loads(done.stdout).items()}
                yield Sample(VALIDATION, build.name, repetition, figures)
