"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def skip(reason: str) -> None:
    """Skip a test, or fail it where everything has to run (``MT_TEST_REQUIRE=1``, as in ``.ci/run``)."""
    if os.environ.get("MT_TEST_REQUIRE") == "1":
        pytest.fail(f"{reason} (MT_TEST_REQUIRE=1 lets nothing be skipped)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real speech and annotations (``MT_TEST_DATA``); a test that needs them is skipped where they are absent."""
    root = Path(os.environ.get("MT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "fsdd").is_dir():
        skip(f"no real data in {root}; set MT_TEST_DATA")
    return root
