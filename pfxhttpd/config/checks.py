"""The checks that the schema cannot express.

Each function returns or yields the problems of one part of the tree: `listener_problems` and `server_problems` those of
`server`, `written_problems` those of single blocks as they were written (`defaults` included), `merged_problems` those
of an entry with the defaults merged in. None of them relies on the defaults that the schema declares.
"""

from __future__ import annotations

from collections.abc import Iterator

from pfxhttpd.config import values
from pfxhttpd.config.defaults import FILE
from pfxhttpd.config.endpoints import TcpEndpoint, listener_endpoint, overlap
from pfxhttpd.config.errors import Problem
from pfxhttpd.config.node import Node, describe, dotted
from pfxhttpd.config.schema import did_you_mean
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS, SOCKET_MAP

MAX_UNIX_PATH = 107
"""Bytes in the sun_path of a sockaddr_un, unix(7), without the final NUL."""
MAX_RUNTIME_DIRECTORY = MAX_UNIX_PATH - len("/cache/cache.sock")
"""Bytes in the path of the runtime directory, with which the longest path of a socket in it can still be used."""

OIDC_BLOCKS = ("backend_oidc_auth", "sasl_oidc_auth")

_UNIX_ONLY_KEYS = ("mode", "user", "group")

_CREDENTIAL_KEYS = {
    "client_secret_basic": ("client_secret", "client_secret" + FILE),
    "client_secret_post": ("client_secret", "client_secret" + FILE),
    "private_key_jwt": ("private_key" + FILE,),
}
"""Method of authentication to a provider -> the keys of which one must be given."""


def listener_problems(root: Node) -> list[Problem]:
    """Everything that is wrong with `server.listen`. The tree has no defaults in it yet."""
    problems: list[Problem] = []
    bound: list[tuple[str | TcpEndpoint, Node]] = []
    listen = root.get("server", "listen")
    for listener in listen.value if listen is not None else ():
        problems += _listener_name_problems(listener, root)
        problems += _listener_address_problems(listener)
        endpoint = listener_endpoint(listener)
        if endpoint is None:
            continue
        other = next((earlier for taken, earlier in bound if overlap(taken, endpoint)), None)
        if other is None:
            bound.append((endpoint, listener))
        else:
            node = listener.get("systemd_socket_name") or listener.get("address") or listener
            line = other.location.line
            problems.append(node.problem(f"the address is taken by {dotted(other.path)} in line {line}"))
    return problems


def _listener_name_problems(listener: Node, root: Node) -> list[Problem]:
    kind = listener.scalar("kind")
    if kind is None or "name" in listener.dropped:
        return []
    name = listener.get("name") or listener.child("name", "")
    if name.value == "defaults":
        return [name.problem("no listener can have the name `defaults`, which is a section's block of defaults")]
    if SECTIONS[kind] in root.dropped:
        return []
    section = root.get(SECTIONS[kind])
    entries = set() if section is None else (set(section.value) | section.dropped) - {"defaults"}
    if kind == SOCKET_MAP:
        return [] if entries else [name.problem("there is no entry under socket_maps that could answer here")]
    if not name.value:
        return [name.problem(f"is missing: the name of the entry under {SECTIONS[kind]} that answers here")]
    if name.value in entries:
        return []
    hint = did_you_mean(name.value, sorted(entries))
    return [name.problem(f"no entry {describe(name.value)} under {SECTIONS[kind]}{hint}")]


def _listener_address_problems(listener: Node) -> list[Problem]:
    if listener.scalar("systemd_socket_name"):
        given = [listener.get(key) for key in _UNIX_ONLY_KEYS if listener.scalar(key)]
        return [node.key_problem("has no effect here: systemd makes this socket") for node in given if node]
    if listener.dropped & {"type", "systemd_socket_name"}:
        return []
    if listener.scalar("type") == "unix":
        return _unix_address_problems(listener)
    return _tcp_address_problems(listener)


def _unix_address_problems(listener: Node) -> list[Problem]:
    node = listener.get("address")
    if node is None or not node.value:
        if "address" in listener.dropped:
            return []
        return [listener.child("address", None).key_problem("is missing: the path of the Unix socket")]
    if not node.value.startswith("/"):
        return [node.problem("the path of a Unix socket must begin with /")]
    length = len(node.value.encode())
    if length > MAX_UNIX_PATH:
        return [node.problem(f"the path of a Unix socket can have {MAX_UNIX_PATH} bytes, this has {length}")]
    if node.value.endswith("/"):
        return [node.problem("the path of a Unix socket must name a file, not a directory")]
    return []


def _tcp_address_problems(listener: Node) -> list[Problem]:
    problems = [
        node.key_problem("has no effect here: only a unix listener has it")
        for key in _UNIX_ONLY_KEYS
        if (node := listener.get(key)) and node.value
    ]
    if listener.get("port") is None and "port" not in listener.dropped:
        problems.append(listener.child("port", None).key_problem("is missing"))
    node = listener.get("address")
    if node is None or not node.value:
        return problems
    host = node.value
    address = values.ip_address(host)
    error = values.host_error(host)
    before_port, _, port = host.rpartition(":")
    if host.startswith("/"):
        problems.append(node.problem("a path is the address of a listener of type unix"))
    elif address is None and port.isdigit() and values.host_error(before_port) is None:
        problems.append(node.problem("the port belongs in `port`"))
    elif error is not None:
        problems.append(node.problem(error))
    elif listener.scalar("type") == "tcp6" and address is not None and address.version == 4:
        problems.append(node.problem("an IPv4 address cannot be bound by a listener of type tcp6"))
    return problems


def server_problems(root: Node) -> Iterator[Problem]:
    """Mistakes in `server` outside its listeners."""
    tls = root.get("server", "tls")
    for given, needed in (("cert", "key"), ("key", "cert")):
        node = tls and tls.get(given)
        if tls and node and node.value and not tls.scalar(needed) and needed not in tls.dropped:
            yield node.problem(f"a `{given}` needs a `{needed}`")
    proxy = root.get("server", "http_client", "proxy")
    error = values.proxy_error(proxy.value) if proxy and proxy.value else None
    if proxy and error:
        yield proxy.problem(error)
    directory = root.get("server", "runtime_directory")
    length = len(directory.value.encode()) if directory and directory.value else 0
    if directory and length > MAX_RUNTIME_DIRECTORY:
        text = f"the path can have {MAX_RUNTIME_DIRECTORY} bytes, this has {length}"
        yield directory.problem(f"{text}; there will be Unix sockets in the directory")


def written_problems(root: Node) -> Iterator[Problem]:
    """Mistakes within single blocks, each reported once, where it was written."""
    for section in SECTIONS.values():
        node = root.get(section)
        for _, block in node.children() if node else ():
            yield from _block_problems(block)


def _block_problems(block: Node) -> Iterator[Problem]:
    target = block.get("target")
    error = values.target_error(target.value) if target and target.value else None
    if target and error:
        yield target.problem(error)
    headers = block.get("custom_headers")
    for line in headers.value if headers else ():
        try:
            values.parse_header(line.value)
        except ValueError as invalid:
            yield line.problem(str(invalid))
    basic = block.get("http_auth_basic")
    if basic and basic.value and ":" not in basic.value:
        yield basic.problem("expected user:password, but there is no colon")
    yield from given_twice(block)
    for name in OIDC_BLOCKS:
        oidc = block.get(name)
        for provider in (oidc, *_providers(oidc)) if oidc else ():
            yield from given_twice(provider)
            for key in ("configuration_uri", "tokeninfo_url"):
                url = provider.get(key)
                error = values.url_error(url.value) if url and url.value else None
                if url and error:
                    yield url.problem(error)


def _providers(oidc: Node) -> list[Node]:
    """The blocks under `providers`."""
    providers = oidc.get("providers")
    return [] if providers is None else list(providers.value)


def given_twice(block: Node) -> Iterator[Problem]:
    """Values given both directly and by a file."""
    for key, node in block.children():
        if isinstance(key, str) and node.value and block.scalar(key + FILE):
            yield block.value[key + FILE].key_problem(f"given together with `{key}`; only one of the two is allowed")


def merged_problems(kind: str, entry: Node) -> Iterator[Problem]:
    """What an entry lacks once the defaults are merged in."""
    required = ("target",) if kind == DOVECOT_SASL else ("target", "value_field")
    for key in required:
        if not entry.scalar(key) and key not in entry.dropped:
            yield entry.child(key, None).key_problem("is missing")
    for name in OIDC_BLOCKS:
        oidc = entry.get(name)
        if oidc and oidc.scalar("enabled"):
            yield from _several_providers_problems(oidc) if _providers(oidc) else _provider_problems(oidc, name)


def _several_providers_problems(oidc: Node) -> Iterator[Problem]:
    for key, node in oidc.children():
        if key not in ("enabled", "providers"):
            yield node.key_problem("has no effect beside `providers`; put it into the blocks of that list")
    for provider in _providers(oidc):
        if provider.scalar("enabled") is not False:
            yield from _provider_problems(provider, "sasl_oidc_auth")


def _provider_problems(oidc: Node, name: str) -> Iterator[Problem]:
    method = auth_method(oidc)
    required = ["configuration_uri"]
    if name == "backend_oidc_auth" or method != "none":
        required.append("client_id")
    for key in required:
        if not oidc.scalar(key) and key not in oidc.dropped:
            yield oidc.child(key, None).key_problem("is missing")
    credentials = _CREDENTIAL_KEYS.get(method, ())
    node = oidc.get("auth_method")
    if node and credentials and not any(oidc.scalar(key) or key in oidc.dropped for key in credentials):
        yield node.problem(f"{method} needs {' or '.join(f'`{key}`' for key in credentials)}")
    yield from _userinfo_problems(oidc)


def _userinfo_problems(oidc: Node) -> Iterator[Problem]:
    """What cannot be checked, since a userinfo endpoint says neither for whom nor for what a token is."""
    tokeninfo = oidc.get("tokeninfo_url")
    if oidc.scalar("validation") != "userinfo":
        if tokeninfo and tokeninfo.value:
            yield tokeninfo.key_problem("has no effect without `validation: userinfo`")
    elif not (tokeninfo and tokeninfo.value):
        for key in ("audience", "required_scopes"):
            node = oidc.get(key)
            if node and node.value:
                yield node.key_problem(
                    "cannot be checked with `validation: userinfo` unless there is a `tokeninfo_url`"
                )


def auth_method(oidc: Node) -> str:
    """How to authenticate to the provider, with `auto` resolved as the manual describes."""
    method: str = oidc.scalar("auth_method") or "auto"
    if method != "auto":
        return method
    if oidc.scalar("private_key" + FILE):
        return "private_key_jwt"
    if oidc.scalar("client_secret") or oidc.scalar("client_secret" + FILE):
        return "client_secret_basic"
    return "none"
