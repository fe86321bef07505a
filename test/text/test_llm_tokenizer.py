"""Tokenizers of LLMs: made, written, loaded by transformers, and there and back again."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.llm_tokenizer import KINDS, SPECIAL_TOKENS, load_tokenizer, train_tokenizer
from espnet_mt_llm.text.prompts import build_prompt, encode_prompt, template
from espnet_mt_llm.text.targets import SPEAKER, build_target, encode_target, text_of

ENGLISH = ["the red ship sails", "seven green houses near an old town", "the captain"]
TEXTS = {"word": ENGLISH, "char": ["好我们开始吧", "用 AI 模型"], "bpe": ENGLISH}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One tokenizer of each kind, loaded."""
    out = {}
    for kind in KINDS:
        where = tmp_path_factory.mktemp(kind)
        size = train_tokenizer(TEXTS[kind], where, kind, 400 if kind == "bpe" else 0)
        out[kind] = load_tokenizer(where)
        assert len(out[kind]) == size
    return out


def tokens(tokenizer, text):
    return tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=30))
@settings(max_examples=80)
def test_there_and_back(made, kind, text):
    tokenizer = made[kind]
    # What has the form of a special token or of a byte is one.
    text = text.replace("<", "")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_units(made):
    assert tokens(made["word"], " the red ship<SC>0 old<SC>12") == [
        "▁the", "▁red", "▁ship", "<SC>", "0", "▁old", "<SC>", "1", "2"]
    assert tokens(made["char"], " 我们AI") == ["▁", "我", "们", "A", "I"]
    assert tokens(made["bpe"], " the ship 10")[-2:] == ["1", "0"]
    # An unseen word or name is spelled.
    assert tokens(made["word"], " Mike ships") == ["▁", "M", "i", "k", "e", "▁ship", "s"]
    assert tokens(made["word"], "é") == ["<0xC3>", "<0xA9>"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens(made, kind):
    tokenizer = made[kind]
    assert [tokenizer.id_of(t) for t in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.end_id == SPECIAL_TOKENS.index("<|im_end|>") and tokenizer.pad_id == 0
    assert len(tokenizer.encode("x<SC>y<start><end>")) == 5
    assert tokenizer.decode([*tokenizer.encode(" a<SC>0"), tokenizer.end_id, tokenizer.pad_id]) == " a<SC>0"
    with pytest.raises(UserError, match="is 2 tokens; add it to the new tokens"):
        tokenizer.id_of("xy" if kind != "bpe" else "qz")


def test_new_tokens_come_last(tmp_path):
    train_tokenizer(ENGLISH, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    size = len(tokenizer)
    assert tokenizer.add_tokens(["<spk_start>", "<SC>"]) == 1 and len(tokenizer) == size + 1
    assert tokenizer.id_of("<spk_start>") == size and len(tokenizer.encode("a<spk_start>b")) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_targets(made, kind):
    tokenizer = made[kind]
    for style in ("speakerlm", "dual"):
        prompt = build_prompt(template(style, "match"), ["Mike", "张三"])
        ids = encode_prompt(prompt, tokenizer)
        assert [i for i in ids if i < 0] == ([-2, -3, -1])
    segments = [{"session_id": "m", "speaker": s, "start_time": t, "end_time": t + 1.0, "words": w}
                for s, t, w in (("A", 0.0, "red ship"), ("B", 2.0, "好"), ("A", 3.5, "10 apples"))]
    for fmt in ("speakerlm", "sc_suffix", "sot"):
        pieces = build_target(segments, fmt)
        encoded = encode_target(pieces, tokenizer)
        assert tokenizer.decode(encoded.ids) == text_of(pieces)
        if fmt == "sc_suffix":  # a number below ten is one token
            assert encoded.types.count(SPEAKER) == 3


def test_the_most_frequent_words_fit(tmp_path):
    least = train_tokenizer(["x"], tmp_path / "least")
    assert train_tokenizer(ENGLISH, tmp_path / "small", vocab_size=least) == least
    tokenizer = load_tokenizer(tmp_path / "small")
    assert tokenizer.decode(tokenizer.encode(" seven")) == " seven" and len(tokenizer.encode(" seven")) == 6
    with pytest.raises(UserError, match=r"vocab_size: 300 has no room .*; use \d+ or more"):
        train_tokenizer(ENGLISH, tmp_path, vocab_size=300)
    with pytest.raises(UserError, match="vocab_size: 100 has no room for bytes"):
        train_tokenizer(ENGLISH, tmp_path, "bpe", 100)


def test_the_same_bytes_twice(tmp_path):
    for name in "ab":
        train_tokenizer(ENGLISH, tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_the_published_format_of_qwen(tmp_path):
    train_tokenizer(ENGLISH, tmp_path / "own", "bpe", 400)
    own = load_tokenizer(tmp_path / "own")
    tree = json.loads((tmp_path / "own/tokenizer.json").read_text())
    there = tmp_path / "qwen"
    there.mkdir()
    (there / "tokenizer.json").write_text(json.dumps(tree))
    (there / "vocab.json").write_text(json.dumps(tree["model"]["vocab"]))
    (there / "merges.txt").write_text("".join(f"{' '.join(pair)}\n" for pair in tree["model"]["merges"]))
    added = {str(t.pop("id")): t for t in tree["added_tokens"]}
    (there / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
        "added_tokens_decoder": added, "add_prefix_space": False, "clean_up_tokenization_spaces": False}))
    qwen = load_tokenizer(there)
    assert (len(qwen), qwen.end_id, qwen.pad_id) == (len(own), own.end_id, own.pad_id)
    for text in (" the red ship<SC>0 好 12", " spk 10: houses", template("dual", "no")):
        assert qwen.encode(text) == own.encode(text) and qwen.decode(qwen.encode(" a b<SC>7")) == " a b<SC>7"


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="unknown kind of tokenizer 'words'; did you mean 'word'"):
        train_tokenizer(ENGLISH, tmp_path, "words")
    with pytest.raises(UserError, match="no text to make a tokenizer from"):
        train_tokenizer([" "], tmp_path)
    with pytest.raises(UserError, match="no tokenizer: .*; make one with python -m espnet_mt_llm.bin.make_llm_tok"):
        load_tokenizer(tmp_path / "none")
    train_tokenizer(ENGLISH, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')  # of a model that was not copied whole
    with pytest.raises(UserError, match="no vocabulary: tokenizer.json is not there or empty; put the files"):
        load_tokenizer(tmp_path)
    train_tokenizer(ENGLISH, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tree = json.loads((tmp_path / "tokenizer.json").read_text().replace("<|im_end|>", "<|over|>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None, "pad_token": None}))
    with pytest.raises(UserError, match="nor an end-of-sequence token"):
        load_tokenizer(tmp_path)


def test_text_needs_no_torch():
    code = ("import sys; from espnet_mt_llm.text import llm_tokenizer, names, parsing, prompts, targets; "
            "sys.exit(3 if {'torch', 'transformers', 'tokenizers'} & set(sys.modules) else 0)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
