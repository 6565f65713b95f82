"""The settings: frozen values in which all other packages read the configuration.

Nothing here depends on files, the environment or merged defaults: `config.load` resolves those and builds these values.
Durations are in seconds, sizes in bytes, and an optional text that is not given is "".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SOCKET_MAP, POLICY_SERVICE, DOVECOT_SASL = "socket_map", "policy_service", "dovecot_sasl"

SECTIONS = {SOCKET_MAP: "socket_maps", POLICY_SERVICE: "policy_services", DOVECOT_SASL: "dovecot_sasl"}
"""Listener kind -> the section of the configuration that holds its entries."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a set of listeners.

    `max_workers` is their number, `max_queue` the number of clients that may wait for one of them. A worker is replaced
    after `max_requests` requests; 0 means never.
    """

    max_workers: int
    max_queue: int
    max_requests: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that clients connect to. `name` is "" for a socket map listener without one. `mode` is the permission
    bits of a Unix socket; -1 is the default."""

    kind: str
    name: str
    type: str
    address: str = ""
    port: int = 0
    mode: int = -1
    user: str = ""
    group: str = ""
    systemd_socket_name: str = ""
    worker_pool: Pool | None = None

    @property
    def title(self) -> str:
        """What the listener is called in messages: its name, or its address if it has none."""
        return self.name or self.endpoint

    @property
    def endpoint(self) -> str:
        """The address in one text. Two listeners with the same one are the same socket."""
        if self.systemd_socket_name:
            return f"systemd:{self.systemd_socket_name}"
        if self.type == "unix":
            return f"unix:{self.address}"
        host = self.address.strip("[]") or "::"
        return f"{self.type}:[{host}]:{self.port}" if ":" in host else f"{self.type}:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Logging:
    """What is logged, and where. `syslog` is the name of a facility; "" means standard output."""

    json: bool = False
    level: str = "info"
    use_systemd: bool = False
    syslog: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to backends. Unless `enabled`, the other fields have no effect and the system's trust store is used."""

    enabled: bool = False
    skip_verify: bool = False
    root_ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class HttpClient:
    """How backends are asked. `timeout` bounds a whole exchange; `proxy` "" leaves it to the environment."""

    timeout: float = 60.0
    max_connections_per_host: int = 100
    max_idle_connections: int = 20
    max_idle_connections_per_host: int = 20
    idle_connection_timeout: float = 90.0
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class ResponseCacheSettings:
    """The response cache. `ttl` is how long an answer may be used."""

    enabled: bool = False
    ttl: float = 300.0
    max_entries: int = 10000


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """The breaker opens for `cooldown` after so many `failures` in a row; 0 turns it off."""

    failures: int = 5
    cooldown: float = 5.0


@dataclass(frozen=True, slots=True)
class BackendOidc:
    """Client-credentials flow for a backend (RFC 6749 section 4.4).

    The key is read from `private_key_file` for each assertion. `private_key` is the PEM text that was read with the
    configuration; it is used where the file cannot be read, as in a jail that does not contain it.
    """

    enabled: bool = False
    configuration_uri: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    private_key_file: str = ""
    private_key: str = field(default="", repr=False)
    auth_method: str = "none"
    assertion_audience: str = "endpoint"
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SaslOidc:
    """How OAuth tokens are validated that users present. If `providers` is not empty, each of them has its own rules and
    the other fields have no effect."""

    enabled: bool = False
    configuration_uri: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    private_key_file: str = ""
    private_key: str = field(default="", repr=False)
    auth_method: str = "none"
    assertion_audience: str = "endpoint"
    scopes: tuple[str, ...] = ()
    validation: str = "introspection"
    jwks_cache_ttl: float = 300.0
    account_claim: str = ""
    audience: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    required_scopes: tuple[str, ...] = ()
    required_claims: Mapping[str, str | int | bool] = field(default_factory=dict)
    username_match: bool = False
    clock_skew: float = 30.0
    tokeninfo_url: str = ""
    providers: tuple[SaslOidc, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A named block under `socket_maps`, `policy_services` or `dovecot_sasl`, defaults merged in.

    `headers` are the `custom_headers` in their order, with `http_auth_basic` as an Authorization header. `payload` is the
    text of the template, or "" for the default payload.
    """

    kind: str
    name: str
    target: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    payload: str = ""
    status_codes: frozenset[int] = frozenset({200})
    value_field: str = ""
    error_field: str = ""
    no_error_value: str = ""
    timeout: float = 60.0
    http_request_compression: bool = False
    http_response_compression: bool = False
    failure_action: str = "DEFER Temporary server problem"
    cache_ignore: frozenset[str] = frozenset({"instance", "queue_id", "client_port", "stress"})
    reject_status: frozenset[int] = frozenset()
    temporary_failure: str = "disconnect"
    default_local_port: str = ""
    backend_oidc: BackendOidc = BackendOidc()
    sasl_oidc: SaslOidc = SaslOidc()


@dataclass(frozen=True, slots=True)
class PrometheusTls:
    """TLS of the port that serves the metrics. `min_tls_version` is TLS1.2 or TLS1.3."""

    enabled: bool = False
    cert: str = ""
    key: str = ""
    min_tls_version: str = "TLS1.2"


@dataclass(frozen=True, slots=True)
class Observability:
    """What other programs can see of the server: metrics for Prometheus, pages for health checks, and OpenTelemetry.

    `prometheus_http_auth_basic` is user:password, "" without a password. `health_path` and `ready_path` are "" if there is
    no such page. `otel_exporter_otlp_endpoint` is a URL with a scheme.
    """

    prometheus_enabled: bool = False
    prometheus_address: str = "127.0.0.1"
    prometheus_port: int = 9464
    prometheus_path: str = "/metrics"
    prometheus_runtime_metrics: bool = False
    prometheus_http_auth_basic: str = field(default="", repr=False)
    prometheus_tls: PrometheusTls = PrometheusTls()
    health_path: str = "/healthz"
    ready_path: str = "/readyz"
    otel_enabled: bool = False
    otel_traces_enabled: bool = False
    otel_metrics_enabled: bool = False
    otel_service_name: str = "pfxhttp"
    otel_service_version: str = ""
    otel_exporter_otlp_endpoint: str = "http://localhost:4318"
    otel_exporter_otlp_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    otel_exporter_otlp_insecure: bool = False
    otel_sample_ratio: float = 1.0

    @property
    def sends_traces(self) -> bool:
        return self.otel_enabled and self.otel_traces_enabled

    @property
    def sends_metrics(self) -> bool:
        return self.otel_enabled and self.otel_metrics_enabled


@dataclass(frozen=True, slots=True)
class Server:
    """The `server` section. `max_connections` 0 leaves the limit to RLIMIT_NOFILE."""

    listen: tuple[Listener, ...] = ()
    worker_pool: Pool = Pool(8, 80)
    run_as_user: str = ""
    run_as_group: str = ""
    chroot: str = ""
    runtime_directory: str = ""
    logging: Logging = Logging()
    tls: Tls = Tls()
    http_client: HttpClient = HttpClient()
    response_cache: ResponseCacheSettings = ResponseCacheSettings()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    observability: Observability = Observability()
    socketmap_max_reply_size: int = 100_000
    client_idle_timeout: float = 3600.0
    max_connections: int = 0
    shutdown_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole valid configuration. `entries` maps a listener kind to its entries by name."""

    server: Server
    entries: Mapping[str, Mapping[str, Entry]]
    source: str = ""
