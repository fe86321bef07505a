"""espeak-ng's data under a path that is too long for its buffer."""

from pathlib import Path

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora.espeak import _short


def test_long_path_is_reached_by_a_short_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("long" * 20) / ("path" * 20)
    deep.mkdir(parents=True)
    short = tmp_path.parents[2]
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(short))
    for _ in range(2):  # the second process finds the link there
        link = Path(_short(str(deep)))
        assert len(str(link)) <= 140 and link.resolve() == deep.resolve()
    assert _short(str(short)) == str(short)
    link.unlink()
    link.mkdir()
    with pytest.raises(UserError, match="too long a path"):
        _short(str(deep))
    link.rmdir()
