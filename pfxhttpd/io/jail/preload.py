"""Loads what code that runs inside the jail will ask for and not find there.

Python imports late, glibc loads its name services and its thread cancellation late, OpenSSL reads its configuration
when first used. All of it happens here, while the files can be reached. The tests prove the list: they run what the
server does after this and fail on any module that turns up late.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import socket
import ssl
import time
from collections.abc import Collection, Iterator

from pfxhttpd.config.errors import ConfigError
from pfxhttpd.config.load import load_text

_MODULES = """
    _strptime calendar csv datetime decimal gzip hashlib hmac http.client http.cookiejar http.cookies
    importlib.metadata importlib.resources ipaddress json linecache locale logging.handlers mimetypes netrc pickle
    queue quopri random secrets shutil signal socket ssl stringprep subprocess tempfile threading tokenize tomllib
    traceback unicodedata urllib.request uuid zlib
    email.charset email.generator email.header email.iterators email.message email.parser email.policy
    encodings.ascii encodings.idna encodings.latin_1 encodings.iso8859_1 encodings.cp1252 encodings.punycode
    encodings.raw_unicode_escape encodings.unicode_escape encodings.utf_8 encodings.utf_8_sig
    encodings.utf_16 encodings.utf_16_be encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le
    multiprocessing.connection multiprocessing.managers multiprocessing.pool multiprocessing.popen_fork
    multiprocessing.process multiprocessing.reduction multiprocessing.resource_sharer
    multiprocessing.resource_tracker multiprocessing.shared_memory multiprocessing.spawn multiprocessing.util
"""

_PACKAGES = """
    certifi charset_normalizer httptools idna jose jsonschema jsonschema_specifications referencing requests
    setproctitle urllib3 yaml
    cryptography.exceptions cryptography.hazmat.backends cryptography.hazmat.backends.openssl
    cryptography.hazmat.bindings.openssl cryptography.hazmat.primitives cryptography.hazmat.primitives.asymmetric
    cryptography.hazmat.primitives.serialization cryptography.x509
"""

_OPTIONAL = "brotli brotlicffi chardet simplejson socks zstandard"
"""Used by the packages above where they are installed."""

_NOT_OURS = ("tests", "__main__", "emscripten", "pyopenssl", "benchmarks", "http2", "cli", "help")
"""Parts of those packages that nothing imports while serving, and that may want what is not installed."""

_LIBRARIES = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")
"""What glibc opens late, the last for pthread_exit(3); a library that is loaded is found again by its name."""


def preload(*packages: str) -> None:
    """Loads modules, codecs, name services, time zone and TLS library; `packages` as well, with all their modules."""
    for name in _MODULES.split():
        importlib.import_module(name)
    for name in _PACKAGES.split():
        for module in _with_parts(name, _NOT_OURS):
            _import_if_there(module)
    for name in _OPTIONAL.split():
        _import_if_there(name)
    for name in packages:
        for module in _with_parts(name, ("__main__",)):
            importlib.import_module(module)
    for library in _LIBRARIES:
        _open_if_there(library)
    _warm_up()


def _with_parts(package: str, left_out: Collection[str]) -> Iterator[str]:
    """A package and all modules in it, without those whose last name is left out."""
    yield package
    found = importlib.import_module(package)
    for part in pkgutil.iter_modules(getattr(found, "__path__", ())):
        if part.name in left_out:
            continue
        name = f"{package}.{part.name}"
        if part.ispkg:
            yield from _with_parts(name, left_out)
        else:
            yield name


def _import_if_there(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # an optional part whose own needs are not installed; it could not be used outside the jail either


def _open_if_there(library: str) -> None:
    try:
        ctypes.CDLL(library)
    except OSError:
        pass  # another C library, or one with the part built in


def _warm_up() -> None:
    """Uses once what loads its data when first used. Nothing here asks the network."""
    for form, text in (("yaml", "server: {listen: ["), ("toml", "x = ["), ("json", '{"server": {"listen": 1}}')):
        try:
            load_text(text, "/preload", form, {})
        except ConfigError:
            pass  # as it should be: a mistake is what loads most
    time.tzset()
    time.strftime("%c", time.localtime())
    ssl.create_default_context()
    "b\u00fccher.example".encode("idna")
    try:
        socket.getaddrinfo("localhost", None)
    except socket.gaierror:
        pass  # what counts is that the name services were loaded for the question
