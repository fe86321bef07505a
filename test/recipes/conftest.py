"""A recipe of the repository in a temporary checkout, run as a user runs it."""

import csv
import functools
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest

from espnet_mt_llm.datadir.kaldi import DataDir

TABLE = Path(__file__).resolve().parents[1] / "recipes.tsv"


@dataclass(frozen=True)
class Row:
    """How a recipe is run in its debug size, and what it has to leave behind.

    Attributes:
        command: as a user types it in the recipe's directory.
        corpora: variable of ``db.sh`` -> a corpus of toy_corpora.py, or ``real``, the real data; then a path in it.
        checkpoints: published models that the configurations name, made in small by toy_checkpoints.py; ``-``: none.
        files: patterns of files below the recipe's directory, each of which has to be there.
        metric: of each ``score.json`` among them; its rate lies in ``low`` to ``high``.
        long: ``yes`` for a row that is run with ``MT_TEST_LONG=1`` alone, as it tests little that others do not.
    """

    recipe: str
    system: str
    command: str
    corpora: str
    checkpoints: str
    files: str
    metric: str
    low: str
    high: str
    long: str


def read_rows() -> list[Row]:
    """Read test/recipes.tsv."""
    with open(TABLE, encoding="utf-8", newline="") as f:
        return [Row(**row) for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)]


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

    def said(self, name: str) -> list[tuple[str, str, float, float]]:
        """Return recording, speaker, start and end of the utterances of the data directory ``name``, sorted."""
        data = DataDir.read(self.path / "debug/data" / name)
        return sorted((u.rec, u.spk, u.start, u.end) for u in data.utterances)


@pytest.fixture(scope="session")
def make_checkout(repository: Path) -> Callable[[str, Path], Checkout]:
    """Make a :class:`Checkout` of a corpus in a directory."""
    return lambda corpus, root: Checkout(repository, root, corpus)


@pytest.fixture
def checkout(make_checkout: Callable, tmp_path: Path) -> Callable[[str], Checkout]:
    """Make a :class:`Checkout` of a corpus in the test's own directory."""
    return lambda corpus: make_checkout(corpus, tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with a ``row`` for each one; the tests of a recipe share a worker of pytest-xdist: it runs once."""
    if "row" in metafunc.fixturenames:
        everything = os.environ.get("MT_TEST_LONG") == "1"
        metafunc.parametrize("row", [
            pytest.param(row, id=f"{row.recipe}-{row.system}", marks=pytest.mark.xdist_group(row.recipe))
            for row in read_rows() if everything or row.long != "yes"])


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """The rows of test/recipes.tsv."""
    return read_rows()


@pytest.fixture(scope="session")
def corpora_of(request: pytest.FixtureRequest) -> Callable[[Row], dict[str, str]]:
    """Make the corpora of a row: variable of db.sh -> directory."""

    def make(row: Row) -> dict[str, str]:
        found = {}
        for variable, place in (item.split("=") for item in row.corpora.split() if item != "-"):
            name, _, inside = place.partition("/")
            root = (request.getfixturevalue("real_data") if name == "real"
                    else request.getfixturevalue("toy_corpus")(name)[0])
            found[variable] = str(root / inside)
        return found

    return make


@pytest.fixture(scope="session")
def finished(make_checkout: Callable, corpora_of: Callable, rows: list[Row],
             tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Checkout, str]]:
    """Run a recipe as its row says, once for all tests: the recipe, not to be changed, and what it printed until then.

    The first row of a recipe is that of a whole run; the other systems go on with the data that earlier ones have made.
    """
    printed: dict[str, str] = {}

    @functools.lru_cache(maxsize=None)
    def run(row: Row) -> tuple[Checkout, str]:
        first = first_of(row.recipe)
        checkout = make_checkout(row.recipe, tmp_path_factory.mktemp(row.recipe)) if row is first else run(first)[0]
        program, *options = shlex.split(row.command)
        assert program == "./run.sh"
        if row.checkpoints != "-":
            import toy_checkpoints

            toy_checkpoints.write_checkpoints(checkout.path / "downloads", row.checkpoints.split())
        printed[row.recipe] = printed.get(row.recipe, "") + checkout.run(*options, **corpora_of(row))
        return checkout, printed[row.recipe]

    def first_of(recipe: str) -> Row:
        return next(row for row in rows if row.recipe == recipe)

    def find(recipe: str, system: str = "") -> tuple[Checkout, str]:
        return run(next((row for row in rows if (row.recipe, row.system) == (recipe, system)), first_of(recipe)))

    return find
