"""The source distribution and the wheel, made as a release makes them: complete, and accepted by twine."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from kit import daemon

import pfxhttpd

NAME = f"pfxhttpd-{pfxhttpd.__version__}"
METADATA = ("PKG-INFO", "pfxhttpd.egg-info/")
"""What is in a source distribution, but not in the tree."""


def published() -> list[str]:
    command = ["git", "-C", str(daemon.TREE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (daemon.TREE / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both, built from a copy of the tree: the tests run from the tree itself."""
    copy, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in published():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((daemon.TREE / name).read_bytes())
        target.chmod((daemon.TREE / name).stat().st_mode)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=copy, check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(made), "."]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_the_source_distribution_is_the_whole_tree(distributions: Path) -> None:
    with tarfile.open(distributions / f"{NAME}.tar.gz") as archive:
        files = {member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()}
    assert not set(published()) - files
    assert [name for name in files - set(published()) if not name.startswith(METADATA)] == []


def test_the_wheel_has_the_package_its_schema_and_the_manuals(distributions: Path) -> None:
    with zipfile.ZipFile(distributions / f"{NAME}-py3-none-any.whl") as archive:
        files = set(archive.namelist())
        entry_points = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
        metadata = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    package = {name for name in published() if name.startswith("pfxhttpd/")}
    assert {name for name in files if name.startswith("pfxhttpd/")} == package
    assert "pfxhttpd/config/schema.json" in package
    shared = f"{NAME}.data/data/share/"
    assert {name.removeprefix(shared) for name in files if name.startswith(shared)} == {
        "man/man8/pfxhttpd.8",
        "man/man5/pfxhttp.yml.5",
        "bash-completion/completions/pfxhttpd.bash",
        "zsh/site-functions/_pfxhttpd",
    }
    for program in ("pfxhttpd", "pfxhttp"):
        assert f"\n{program} = pfxhttpd.__main__:main\n" in entry_points
    assert metadata["Version"] == pfxhttpd.__version__


def test_the_installed_wheel_runs(distributions: Path, tmp_path: Path) -> None:
    wheel = str(distributions / f"{NAME}-py3-none-any.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", str(tmp_path), wheel], check=True)
    program = (
        "import pfxhttpd, sys; from pfxhttpd.config import schema; print(pfxhttpd.__version__, *pfxhttpd.__path__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{pfxhttpd.__version__} {tmp_path}/pfxhttpd\n", "")


def test_twine_accepts_both(distributions: Path) -> None:
    files = sorted(map(str, distributions.iterdir()))
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
