"""What the metrics of a server say, read by the parser of prometheus_client."""

from __future__ import annotations

import ssl
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPMessage

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """A response, whatever its status code."""

    status: int
    headers: HTTPMessage
    text: str


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: object, response: object) -> object:
        return response

    https_response = http_response


def get(url: str, credentials: str = "", tls: ssl.SSLContext | None = None, **headers: str) -> Page:
    """A page by HTTP or HTTPS. Raises OSError."""
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    if credentials:
        request.add_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    handlers = [
        _AnyStatus(),
        urllib.request.ProxyHandler({}),
        *([urllib.request.HTTPSHandler(context=tls)] if tls else []),
    ]
    with urllib.request.build_opener(*handlers).open(request, timeout=15) as response:
        return Page(response.status, response.headers, response.read().decode())


class Samples:
    """The samples of a text in the format of Prometheus."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.values: dict[tuple[str, Labels], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.values, f"twice: {key}"
                self.values[key] = sample.value

    def sum(self, metric: str, /, **labels: str) -> float:
        """The sum of the samples with that name and, among others, these labels."""
        wanted = set(labels.items())
        return sum(value for (found, own), value in self.values.items() if found == metric and wanted <= own)

    def label_values(self, label: str) -> set[str]:
        """Every value of a label, whatever the metric."""
        return {value for _, labels in self.values for name, value in labels if name == label}

    def counters(self) -> dict[tuple[str, Labels], float]:
        """The samples that may only grow: those of counters and histograms."""
        growing = ("counter", "histogram")
        names = {
            sample.name for family in self.families.values() if family.type in growing for sample in family.samples
        }
        return {key: value for key, value in self.values.items() if key[0] in names}

    def names(self) -> set[str]:
        """The names that a query may use, of metrics without samples as well."""
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        return {
            family.name + suffix for family in self.families.values() for suffix in suffixes.get(family.type, ("",))
        }
