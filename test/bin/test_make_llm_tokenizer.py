"""The command that makes a tokenizer from `supervision`."""

import json

import pytest

from espnet_mt_llm.bin.make_llm_tokenizer import main
from espnet_mt_llm.text.llm_tokenizer import load_tokenizer


def write(path, *texts):
    lines = (json.dumps([{"spk": "A", "start": 0.0, "end": 1.0, "text": t}], ensure_ascii=False) for t in texts)
    path.write_text("".join(f"c{i} {line}\n" for i, line in enumerate(lines)), encoding="utf-8")
    return str(path)


def test_words_of_two_sets(tmp_path, capsys):
    a, b = write(tmp_path / "a", "Red ship!"), write(tmp_path / "b", "green house", "")
    out = tmp_path / "tok"
    main(["--supervision", a, b, "--out", str(out), "--profile", "en_libri", "--special_tokens", "<x>"])
    tokenizer = load_tokenizer(out)
    assert capsys.readouterr().out == f"{out}: {len(tokenizer)} tokens\n"
    assert [len(tokenizer.encode(t)) for t in (" RED SHIP", " GREEN HOUSE", "<x>", " red")] == [2, 2, 1, 4]


def test_bad_input(tmp_path, capsys):
    silent = write(tmp_path / "a", "...")
    for more, message in ((["--profile", "en_libri"], "no transcript is left after normalisation with 'en_libri'"),
                          (["--vocab_size", "5"], "vocab_size: 5 has no room")):
        with pytest.raises(SystemExit) as e:
            main(["--supervision", silent, "--out", str(tmp_path / "tok"), *more])
        assert e.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "tok").exists()
