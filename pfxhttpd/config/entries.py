"""What the schema cannot say about the blocks of `socket_maps`, `policy_services` and `dovecot_sasl`, and `server`.

`written_problems` looks at blocks as they were written, `defaults` included; `merged_problems` at what an entry comes to.
"""

from __future__ import annotations

from typing import Iterator

from pfxhttpd.config import headers
from pfxhttpd.config.merge import FILE
from pfxhttpd.config.node import Node
from pfxhttpd.config.problem import Problem
from pfxhttpd.config.settings import DOVECOT_SASL, SECTIONS
from pfxhttpd.config.url import plain_fault, proxy_fault, target_fault

OIDC_BLOCKS = ("backend_oidc_auth", "sasl_oidc_auth")

_NEEDS = {
    "client_secret_basic": ("client_secret", "client_secret" + FILE),
    "client_secret_post": ("client_secret", "client_secret" + FILE),
    "private_key_jwt": ("private_key" + FILE,),
}
"""What each way to authenticate to a provider cannot do without: one of these keys."""


def server_problems(root: Node) -> Iterator[Problem]:
    """Mistakes in `server` outside its listeners."""
    tls = root.get("server", "tls")
    for one, other in (("cert", "key"), ("key", "cert")):
        node = tls and tls.get(one)
        if node and node.value and not tls.scalar(other) and other not in tls.dropped:
            yield node.wrong(f"a `{one}` needs a `{other}`")
    proxy = root.get("server", "http_client", "proxy")
    fault = proxy_fault(proxy.value) if proxy and proxy.value else None
    if proxy and fault:
        yield proxy.wrong(fault)


def written_problems(root: Node) -> Iterator[Problem]:
    """Mistakes within single blocks, each told once where it was written."""
    for section in SECTIONS.values():
        node = root.get(section)
        for _, block in node.children() if node else ():
            yield from _block(block)


def _block(block: Node) -> Iterator[Problem]:
    target = block.get("target")
    fault = target_fault(target.value) if target and target.value else None
    if target and fault:
        yield target.wrong(fault)
    lines = block.get("custom_headers")
    for line in lines.value if lines else ():
        try:
            headers.parse(line.value)
        except ValueError as error:
            yield line.wrong(str(error))
    basic = block.get("http_auth_basic")
    if basic and basic.value and ":" not in basic.value:
        yield basic.wrong("expected user:password, but there is no colon")
    yield from _twice(block)
    for name in OIDC_BLOCKS:
        oidc = block.get(name)
        if oidc:
            yield from _twice(oidc)
            uri = oidc.get("configuration_uri")
            fault = plain_fault(uri.value) if uri and uri.value else None
            if uri and fault:
                yield uri.wrong(fault)


def _twice(block: Node) -> Iterator[Problem]:
    """Values given both in place and by a file."""
    for key, node in block.children():
        if isinstance(key, str) and node.value and block.scalar(key + FILE):
            yield block.value[key + FILE].wrong_key(f"given together with `{key}`; only one of the two can hold")


def merged_problems(kind: str, entry: Node) -> Iterator[Problem]:
    """What an entry lacks once the defaults are in it."""
    required = ("target",) if kind == DOVECOT_SASL else ("target", "value_field")
    for key in required:
        if not entry.scalar(key) and key not in entry.dropped:
            yield entry.child(key, None).wrong_key("is missing")
    for name in OIDC_BLOCKS:
        oidc = entry.get(name)
        if oidc and oidc.scalar("enabled"):
            yield from _oidc(oidc, name)


def _oidc(oidc: Node, name: str) -> Iterator[Problem]:
    method = auth_method(oidc)
    needed = ["configuration_uri"]
    if name == "backend_oidc_auth" or method != "none":
        needed.append("client_id")
    for key in needed:
        if not oidc.scalar(key) and key not in oidc.dropped:
            yield oidc.child(key, None).wrong_key("is missing")
    ways = _NEEDS.get(method, ())
    if ways and not any(oidc.scalar(way) or way in oidc.dropped for way in ways):
        chosen = oidc.get("auth_method")
        if chosen:
            yield chosen.wrong(f"{method} needs {' or '.join(f'`{way}`' for way in ways)}")


def auth_method(oidc: Node) -> str:
    """How to authenticate to the provider, `auto` resolved as the manual says."""
    named = oidc.scalar("auth_method") or "auto"
    if named != "auto":
        return named
    if oidc.scalar("private_key" + FILE):
        return "private_key_jwt"
    if oidc.scalar("client_secret") or oidc.scalar("client_secret" + FILE):
        return "client_secret_basic"
    return "none"
