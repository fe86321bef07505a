"""Token lists: words, characters, sentencepiece; reading back; messages."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from espnet_mt_llm.bin import make_token_list as command
from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.token_list import Tokenizer, make_token_list, read_token_list, train_bpe, write_token_list

WORDS = st.lists(st.text("abcdé'好", min_size=1, max_size=5), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=5), st.sampled_from(["word", "char"]))
def test_known_text_comes_back(lines: list[list[str]], token_type: str) -> None:
    texts = [" ".join(words) for words in lines]
    tokens = make_token_list(texts, token_type)
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>" and len(set(tokens)) == len(tokens)
    tokenizer = Tokenizer(tokens, token_type)
    for text in texts:
        ids = tokenizer.encode(text)
        assert 0 not in ids and 1 not in ids and tokenizer.decode(ids) == text


def test_bpe_comes_back(tmp_path: Path) -> None:
    texts = ["the river runs under the bridge", "every teacher sings", "the farmer finds the old bottle"] * 5
    tokens = train_bpe(texts, 60, tmp_path / "bpe.model")
    tokenizer = Tokenizer(tokens, "bpe", tmp_path / "bpe.model")
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 1 not in tokenizer.encode("the bridge") and 1 in tokenizer.encode("好")


def test_bpe_needs_enough_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; make it with the stage 'tokens'"):
        Tokenizer(["<blank>"], "bpe", tmp_path / "none.model")


def test_too_few_units_for_the_letters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot train 2 units on this text .*; raise --nbpe"):
        train_bpe(["the bridge"] * 20, 2, tmp_path / "bpe.model")


def test_rare_words_become_unknown() -> None:
    tokens = make_token_list(["a a b"], "word", min_count=2)
    assert tokens == ["<blank>", "<unk>", "a", "<sos/eos>"] and Tokenizer(tokens, "word").encode("b") == [1]


@pytest.mark.parametrize("lines, message", [
    ("a\n<blank>\n", "1: the first token must be <blank>"),
    ("<blank>\na\na\n", "3: the token 'a' is already on line 2"),
])
def test_broken_list(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "t.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        read_token_list(tmp_path / "t.txt")


def test_write_and_read(tmp_path: Path) -> None:
    tokens = make_token_list(["好 吧"], "char")
    write_token_list(tmp_path / "t.txt", tokens)
    assert read_token_list(tmp_path / "t.txt") == tokens and "<space>" in tokens


def test_command_normalises_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "supervision").write_text('c1 [{"spk":"A","start":0,"end":1,"text":"Good, day."}]\n')
    common = ["--supervision", str(tmp_path / "supervision"), "--out", str(tmp_path / "tokens.txt")]
    command.main([*common, "--profile", "en_libri"])
    assert read_token_list(tmp_path / "tokens.txt") == ["<blank>", "<unk>", "DAY", "GOOD", "<sos/eos>"]
    (tmp_path / "supervision").write_text('c1 [{"spk":"A","start":0,"end":1,"text":"..."}]\n')
    with pytest.raises(SystemExit):
        command.main([*common, "--profile", "en_libri"])
    assert "no transcript is left" in capsys.readouterr().err
