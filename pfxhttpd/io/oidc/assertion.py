"""The private key of pfxhttpd, and the assertions that it signs for client authentication (RFC 7523)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jose import jws

from pfxhttpd.config.settings import BackendOidc, Entry, SaslOidc
from pfxhttpd.io.oidc.keys import MIN_RSA_BITS, EdDSAKey

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class KeyFileError(ValueError):
    """The key cannot be used. The message contains no part of the key."""


class SigningKey:
    """A private key. `algorithm` is RS256, ES256, ES384, ES512 or EdDSA."""

    def __init__(self, pem: str) -> None:
        """Raises `KeyFileError`."""
        self._key: EdDSAKey | str = pem
        try:
            key = load_pem_private_key(pem.encode("utf-8"), password=None)
        except TypeError:
            raise KeyFileError("the key is encrypted; it must be stored without a passphrase") from None
        except ValueError:
            raise KeyFileError("it holds no private key in PEM form") from None
        except UnsupportedAlgorithm as error:
            raise KeyFileError("it holds a private key of a kind that cannot be used") from error
        if isinstance(key, Ed25519PrivateKey):
            self.algorithm, self._key = "EdDSA", EdDSAKey(key, "EdDSA")
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            if key.curve.name not in _CURVES:
                raise KeyFileError("its curve must be P-256, P-384 or P-521")
            self.algorithm = _CURVES[key.curve.name]
        elif isinstance(key, rsa.RSAPrivateKey):
            if key.key_size < MIN_RSA_BITS:
                raise KeyFileError(f"an RSA key needs {MIN_RSA_BITS} bits at least, this one has {key.key_size}")
            self.algorithm = "RS256"
        else:
            raise KeyFileError("it must be an RSA, EC or Ed25519 key")

    def sign(self, claims: Mapping[str, str | int]) -> str:
        """The claims as a signed JWT."""
        signed: str = jws.sign(dict(claims), self._key, algorithm=self.algorithm)
        return signed


def check(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is wrong with the entry's private keys, each with the key that names its file."""
    clients: dict[str, BackendOidc | SaslOidc] = {
        "backend_oidc_auth": entry.backend_oidc,
        "sasl_oidc_auth": entry.sasl_oidc,
    }
    for number, provider in enumerate(entry.sasl_oidc.providers):
        clients[f"sasl_oidc_auth.providers.{number}"] = provider
    for block, client in clients.items():
        if client.private_key:
            try:
                SigningKey(client.private_key)
            except KeyFileError as error:
                yield f"{block}.private_key_file", f"the key cannot be used: {error}"
