"""A Prometheus of the test's own, which scrapes once a second and answers queries."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kit import ports, proc
from kit.needs import program
from kit.waiting import until


class Prometheus:
    """Runs from construction until the context ends. The test has asked `needs("prometheus")`."""

    def __init__(self, scrape_config: Mapping[str, Any], rules: Path) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="prometheus-"))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [dict(scrape_config)],
        }
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = ports.free()
        executable = program("prometheus")
        assert executable, "the test did not ask for what it needs"
        self._process = subprocess.Popen(
            [
                executable,
                f"--config.file={self._directory}/prometheus.yml",
                f"--storage.tsdb.path={self._directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=proc.die_with_parent,
        )
        until(self._is_ready, "Prometheus to be ready", 30)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """The data of a response of its API. Raises OSError, also for a query that it does not accept."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The present values of an expression by their labels."""
        found = self.api("query", query=expression)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
