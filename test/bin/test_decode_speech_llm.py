"""The command that decodes with a speech LLM: options win over the file, bad ones are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from espnet_mt_llm.bin.decode_speech_llm import main
from espnet_mt_llm.inference import speech_llm
from espnet_mt_llm.inference.merge import part_path

REQUIRED = ["--model_dir", "exp/x", "--data_dir", "dump/x", "--out_dir"]


def test_options_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
                                   ) -> None:
    asked: list[Any] = []

    def decode(*args: Any) -> tuple:
        asked.extend(args)
        record = {"audio_seconds": 12.0, "wall_seconds": 0.5, "unparsable": ["c1"], "repeated": 2, "capped": 0}
        return [{"session_id": "c1", "speaker": "0", "words": "x"}], {"c1": 1}, record, {"c1": 4}

    monkeypatch.setattr(speech_llm, "decode", decode)
    (tmp_path / "d.yaml").write_text("registration: match\nbatch_size: 3\n")
    main([*REQUIRED, str(tmp_path / "out"), "--config", str(tmp_path / "d.yaml"), "--registration", "over",
          "--num_distractors", "4", "--job", "2", "--num_jobs", "3"])
    config = asked[2]
    assert (config.registration, config.num_distractors, config.batch_size, config.beam_size) == ("over", 4, 3, 1)
    assert asked[3:] == [2, 3]
    assert json.loads(part_path(tmp_path / "out", 2, 3).read_text())["overregistered"] == {"c1": 4}
    assert capsys.readouterr().out == "1 clips, 12.0 s of audio in 0.50 s; unparsable: 1, repeated: 2, capped: 0\n"
    main([*REQUIRED, str(tmp_path / "out"), "--registration", "over", "--num_distractors", "random"])
    assert asked[5 + 2].num_distractors == "random"


@pytest.mark.parametrize("options, message", [
    (["--job", "4", "--num_jobs", "3"], "--job 4 of --num_jobs 3: jobs are numbered from 1"),
    (["--registration", "all"], "registration: 'all'; valid: match, none, over"),
])
def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*REQUIRED, str(tmp_path), *options])
    assert stopped.value.code == 1 and message in capsys.readouterr().err
