"""A recipe of the repository in a temporary checkout, run as a user runs it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable

import pytest


class Checkout:
    """The recipe ``egs2/<corpus>/mtasr1`` in a directory of its own; packages and tools are the repository's."""

    def __init__(self, repository: Path, root: Path, corpus: str) -> None:
        for name in ("espnet_mt_llm", "utils", "tools"):
            (root / name).symlink_to(repository / name)
        made = ("data", "dump", "exp", "debug", "downloads", "zh")
        for name in ("TEMPLATE", corpus):
            shutil.copytree(repository / "egs2" / name, root / "egs2" / name, symlinks=True,
                            ignore=lambda folder, names: [n for n in names if n in made
                                                          and Path(folder).name == "mtasr1"])
        self.path = root / "egs2" / corpus / "mtasr1"

    def run(self, *options: str, code: int = 0, **environment: str) -> str:
        """Call run.sh, expect the exit code ``code``, and return all that it printed."""
        done = subprocess.run([self.path / "run.sh", *options], env={**os.environ, **environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture(scope="session")
def make_checkout(repository: Path) -> Callable[[str, Path], Checkout]:
    """Make a :class:`Checkout` of a corpus in a directory."""
    return lambda corpus, root: Checkout(repository, root, corpus)


@pytest.fixture
def checkout(make_checkout: Callable, tmp_path: Path) -> Callable[[str], Checkout]:
    """Make a :class:`Checkout` of a corpus in the test's own directory."""
    return lambda corpus: make_checkout(corpus, tmp_path)
