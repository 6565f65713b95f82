"""The packaging entry point. What it knows stands in setup.cfg, except which files a source distribution contains."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class SourceDistribution(sdist):
    """A source distribution contains every file that git tracks: the tests, guides and examples, too."""

    def make_release_tree(self, base_dir: str, files: Iterable[str]) -> None:
        listed = subprocess.run(["git", "ls-files", "-z"], stdout=subprocess.PIPE, text=True)
        if listed.returncode:
            raise SystemExit("setup.py: a source distribution can only be made in a git checkout")
        tracked = [name for name in listed.stdout.split("\0") if name and Path(name).is_file()]
        super().make_release_tree(base_dir, sorted({*files, *tracked}))


setup(cmdclass={"sdist": SourceDistribution})
