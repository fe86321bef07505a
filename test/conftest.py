"""Fixtures that every test may use."""

import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

import pytest
from hypothesis import settings

# On a busy machine a test that takes long is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "test"))  # toy_corpora.py and what it is made of
# A file size limit fails as a full disk does: in the middle of a file.
FULL_DISK = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
del sys.argv[1]
runpy.run_module("espnet_mt_llm.bin." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def skip(reason: str) -> None:
    """Skip a test, or fail it where everything has to run (``MT_TEST_REQUIRE=1``, as in ``.ci/run``)."""
    if os.environ.get("MT_TEST_REQUIRE") == "1":
        pytest.fail(f"{reason} (MT_TEST_REQUIRE=1 lets nothing be skipped)")
    pytest.skip(reason)


@pytest.fixture(scope="session", name="skip")
def _skip() -> Callable[[str], None]:
    """:func:`skip`, for a test that finds out by itself."""
    return skip


@pytest.fixture(scope="session")
def module() -> Callable[[str], ModuleType]:
    """Import a module that not every installation has, or skip the test."""

    def load(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError as e:
            skip(f"no {name} ({e}); tools/check_install.py says how to get it")

    return load


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def full_disk(repository: Path) -> Callable[..., str]:
    """Run a command that can write ``size`` bytes to a file and no more; expect that it says so, and return that."""

    def run(size: int, name: str, *arguments: Any) -> str:
        done = subprocess.run([sys.executable, "-c", FULL_DISK, str(size), name, *map(str, arguments)],
                              capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "run the command again" in done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real speech and annotations (``MT_TEST_DATA``); a test that needs them is skipped where they are absent."""
    root = Path(os.environ.get("MT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "fsdd").is_dir():
        skip(f"no real data in {root}; set MT_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def toy_corpus(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict]]:
    """Make a corpus of toy_corpora.py once for all tests: its folder, and what is said in it (it is not changed)."""
    import toy_corpora

    @functools.lru_cache(maxsize=None)
    def make(corpus: str, **options: Any) -> tuple[Path, dict]:
        root = tmp_path_factory.mktemp(corpus)
        return root, toy_corpora.CORPORA[corpus](root, real_data, **options)

    return make


@pytest.fixture(autouse=True)
def ordinary_floats() -> Iterator[None]:
    """Undo what a training sets for its whole process: denormal numbers count as zero."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


def pytest_collection_modifyitems(items: list) -> None:
    """Keep the tests that share the Slurm testbed in one worker of pytest-xdist: they run one cluster, not one each."""
    for item in items:
        if "slurm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict]:
    """Environment variables that lead Slurm's commands to a real two-node cluster, started for the tests."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=path)]
    if missing:
        skip(f"no {', '.join(missing)}; install: tools/slurm_testbed.sh install")
    testbed = REPOSITORY / "tools" / "slurm_testbed.sh"
    # Not pytest's own directory: the path of a socket may hold 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        started = subprocess.run([testbed, "start", "--dir", folder], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        yield {"SLURM_CONF": started.stdout.strip().split("=", 1)[1]}
        subprocess.run([testbed, "stop", "--dir", folder], check=True)
