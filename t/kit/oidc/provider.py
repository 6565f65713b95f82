"""A real, certified OpenID provider (npm's oidc-provider) on loopback, over TLS with a certificate of a private CA.

with Provider(authority) as provider:
    token = provider.token("ann@example.test", resource="https://mail.example.test")
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

from kit import ports
from kit.certificates import Authority
from kit.needs import needs, node_modules, program
from kit.oidc.keys import SigningKey

DIRECTORY = Path(__file__).parent
TOKEN_GRANT = "urn:pfxhttpd:test:token"
RESOURCE = "https://mail.example.test"
"""The audience of JWT access tokens, unless a test asks for another one; "?alg=..." chooses how they are signed."""

SECRET = "s3cret: with+signs/&%"
"""A client secret that is read differently by whoever forgets its encoding (RFC 6749 section 2.3.1)."""


def client(client_id: str, method: str = "client_secret_basic", **more: Any) -> dict[str, Any]:
    """A client as the provider has it: it may use client credentials, and introspect."""
    known: dict[str, Any] = {
        "client_id": client_id,
        "token_endpoint_auth_method": method,
        "grant_types": ["client_credentials"],
        "response_types": [],
        "redirect_uris": [],
        "scope": "openid email profile mail api.read api.write",
    }
    if method.startswith("client_secret"):
        known["client_secret"] = SECRET
    return {**known, **more}


def key_client(client_id: str, key: SigningKey) -> dict[str, Any]:
    """A client that authenticates with this key."""
    return client(
        client_id,
        "private_key_jwt",
        jwks={"keys": [key.public_jwk(kid=None)]},
        token_endpoint_auth_signing_alg=key.algorithm,
    )


MAIL = client("mail", "none", grant_types=[TOKEN_GRANT])
"""The mail client whose users' tokens the tests get."""


class Provider:
    """`keys` are its signing keys, the first for tokens; the test has them too, and can forge what a provider would not
    sign. `path` makes the issuer one that is no bare origin."""

    def __init__(
        self,
        authority: Authority,
        clients: Sequence[Mapping[str, Any]] = (),
        keys: Sequence[SigningKey] = (),
        service_ttl: int = 600,
        path: str = "",
    ) -> None:
        needs("node", "oidc-provider")
        self.port = ports.free()
        self.issuer = f"https://127.0.0.1:{self.port}{path}"
        self.keys = list(keys) or [SigningKey("RS256", "rs"), SigningKey("ES256", "es"), SigningKey("EdDSA", "ed")]
        self.ca = authority.certificate
        pair = authority.server("127.0.0.1")
        self._options: dict[str, Any] = {
            "issuer": self.issuer,
            "port": self.port,
            "certificate": pair.certificate,
            "key": pair.key,
            "clients": [MAIL, client("api"), client("stranger"), *clients],
            "service_ttl": service_ttl,
        }
        self._process: subprocess.Popen[str] | None = None
        self._remarks = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as this object
        self.start()

    @property
    def configuration_uri(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"

    def start(self) -> None:
        """Starts it, where it was before; nothing of an earlier run is known to it."""
        self._process = subprocess.Popen(
            [program("node") or "node", "provider.mjs", str(node_modules())],
            cwd=DIRECTORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._remarks,
            text=True,
            env={"PATH": os.environ.get("PATH", ""), "NODE_NO_WARNINGS": "1"},
        )
        self._say({**self._options, "jwks": self._jwks()})

    def stop(self) -> None:
        """Ends the process. Whoever asks from now on finds nobody there."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def freeze(self) -> None:
        """From now on connections are made and requests are taken, but nothing is answered."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        os.kill(self._process.pid, signal.SIGCONT)

    def rotate(self, *keys: SigningKey) -> None:
        """Sign with the first of these keys from now on, and publish them and no others. Tokens stay known."""
        self.keys = list(keys)
        self._say({"command": "rotate", "jwks": self._jwks()})

    def requests(self) -> list[str]:
        """`METHOD /path` of each request since the last call."""
        return list(self._say({"command": "requests"})["requests"])

    def token(
        self, account: str, resource: str = "", scope: str = "openid email mail", ttl: int = 0, client_id: str = "mail"
    ) -> str:
        """An access token of a user: a JWT for `resource`, opaque without."""
        form = {"grant_type": TOKEN_GRANT, "client_id": client_id, "account": account, "scope": scope}
        form |= {"resource": resource} if resource else {}
        form |= {"ttl": str(ttl)} if ttl else {}
        answer = requests.post(f"{self.issuer}/token", data=form, verify=self.ca, timeout=10)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def service_token(self, resource: str = "") -> str:
        """A token of the client `api` itself."""
        form = {"grant_type": "client_credentials", **({"resource": resource} if resource else {})}
        answer = requests.post(
            f"{self.issuer}/token", data=form, headers=_basic("api", SECRET), verify=self.ca, timeout=10
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def revoke(self, token: str, client_id: str = "mail") -> None:
        answer = requests.post(
            f"{self.issuer}/token/revocation",
            data={"token": token, "client_id": client_id},
            verify=self.ca,
            timeout=10,
        )
        assert answer.status_code == 200, answer.text

    def is_active(self, token: str) -> bool:
        return bool(self.introspect(token)["active"])

    def introspect(self, token: str) -> dict[str, Any]:
        """What the provider itself says of a token, asked as the client `api`."""
        answer = requests.post(
            f"{self.issuer}/token/introspection",
            data={"token": token},
            headers=_basic("api", SECRET),
            verify=self.ca,
            timeout=10,
        )
        described: dict[str, Any] = answer.json()
        return described

    def _jwks(self) -> dict[str, Any]:
        return {"keys": [key.private_jwk() for key in self.keys]}

    def _say(self, message: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process and process.stdin and process.stdout
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._remarks.seek(0)
            raise RuntimeError(f"the provider has ended: {self._remarks.read()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _basic(client_id: str, secret: str) -> dict[str, str]:
    """Basic authentication as RFC 6749 section 2.3.1 has it, which encodes both parts first."""
    login = urlencode({"": client_id})[1:] + ":" + urlencode({"": secret})[1:]
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
