"""The configuration that a command works with."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pfxhttpd.config import config_file
from pfxhttpd.config.node import Node

if TYPE_CHECKING:
    from pfxhttpd.config.load import Loaded
    from pfxhttpd.config.settings import Settings


def path(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The file named by --config, else the first that is found. Raises `ConfigError` when there is none."""
    return options.config or config_file.search(environ.get("HOME", ""), os.getcwd())


def tree(file: str, format: str | None, environ: Mapping[str, str]) -> Node:
    """The file as a tree that is not validated. Raises `ConfigError` when the file cannot be read or parsed."""
    root, _ = config_file.tree(config_file.read(file), file, config_file.chosen_format(file, format), environ)
    return root


def load(file: str, format: str | None, environ: Mapping[str, str]) -> Loaded:
    """The validated configuration. Raises `ConfigError` with everything that is wrong with it."""
    # Imported here because the schema validator alone takes longer to import than `status` takes to run.
    from pfxhttpd.config.load import load
    from pfxhttpd.io.oidc import assertion
    from pfxhttpd.rules import login, template, verdict

    return load(file, format, environ, (template.check, verdict.check, login.check, assertion.check))


def settings(file: str, format: str | None, environ: Mapping[str, str]) -> Settings:
    """The settings that the file contains. Raises `ConfigError`."""
    return load(file, format, environ).settings
