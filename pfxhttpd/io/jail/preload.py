"""Loads what code inside the chroot will need and not find there.

Some modules are imported on first use, glibc loads its name services and thread cancellation on first use, and OpenSSL
reads its configuration on first use. All of that happens here, while the files can be reached. The tests verify the list:
they run what the server does afterwards, and fail on any module that is imported late.
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
    certifi charset_normalizer httptools idna jose jsonschema jsonschema_specifications prometheus_client referencing
    requests setproctitle urllib3 yaml
    cryptography.exceptions cryptography.hazmat.backends cryptography.hazmat.backends.openssl
    cryptography.hazmat.bindings.openssl cryptography.hazmat.primitives cryptography.hazmat.primitives.asymmetric
    cryptography.hazmat.primitives.serialization cryptography.x509
"""
"""Those that are not installed are left out: jsonschema has needed referencing and jsonschema_specifications since 4.18."""

_OPTIONAL = "_suggestions brotli brotlicffi chardet simplejson socks zstandard"
"""What those above, or the traceback of an error, use if it is installed."""

_EXCLUDED = (
    *("tests", "__main__", "emscripten", "pyopenssl", "benchmarks", "http2", "cli", "help"),
    *("aiohttp", "django", "twisted"),
)
"""Parts of those packages that serving does not import, and that may need what is not installed."""

_LIBRARIES = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")
"""What glibc opens on first use, the last for pthread_exit(3). A library that is loaded is found again by its name."""


def preload(*packages: str) -> None:
    """Load modules, codecs, name services, time zone and TLS library, and all modules of `packages`."""
    for name in _MODULES.split():
        importlib.import_module(name)
    for name in _PACKAGES.split():
        if _import_if_installed(name):
            for module in _modules_of(name, _EXCLUDED):
                _import_if_installed(module)
    for name in _OPTIONAL.split():
        _import_if_installed(name)
    for name in packages:
        for module in _modules_of(name, ("__main__", "otlp")):  # which needs packages that are optional
            importlib.import_module(module)
    for library in _LIBRARIES:
        _load_library(library)
    _warm_up()


def _modules_of(package: str, left_out: Collection[str]) -> Iterator[str]:
    """The names of a package and of all its modules, except those whose last component is in `left_out`."""
    yield package
    found = importlib.import_module(package)
    for part in pkgutil.iter_modules(getattr(found, "__path__", ())):
        if part.name in left_out:
            continue
        name = f"{package}.{part.name}"
        if part.ispkg:
            yield from _modules_of(name, left_out)
        else:
            yield name


def _import_if_installed(name: str) -> bool:
    """Whether the module could be imported. One that cannot be imported here could not be used outside the chroot, either."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _load_library(library: str) -> None:
    try:
        ctypes.CDLL(library)
    except OSError:
        pass  # another C library, or one that has this part built in


def _warm_up() -> None:
    """Use once what loads its data on first use. Nothing here uses the network."""
    for form, text in (("yaml", "server: {listen: ["), ("toml", "x = ["), ("json", '{"server": {"listen": 1}}')):
        try:
            load_text(text, "/preload", form, {})
        except ConfigError:
            pass  # expected: reporting an error loads the most
    time.tzset()
    time.strftime("%c", time.localtime())
    ssl.create_default_context()
    "b\u00fccher.example".encode("idna")
    try:
        socket.getaddrinfo("localhost", None)
    except socket.gaierror:
        pass  # the name services have been loaded for the query, whatever its result
