"""Normalisation profiles and units."""


import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.normalise import PROFILES, normalise, normalise_all, tokens


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hello,  World", "HELLO WORLD"),
        ("it’s ' rock-n-roll '", "IT'S ROCK N ROLL"),
        ("ＦＵＬＬ width", "FULL WIDTH"),
        ("café №1", "CAFÉ NO1"),
        ("...", ""),
    ],
)
def test_en_libri(text, expected):
    assert normalise(text, "en_libri") == expected


@pytest.mark.parametrize(
    "text, ours, official",
    [
        ("好，嗯，我们开始吧。", "好嗯我们开始吧", "好嗯我们开始吧"),
        ("<sil>对<%>的<->呀<$><#><_><space>", "对的呀", "对的呀"),
        ("ＡＢＣ公司", "ABC公司", "AＢＣ公司"),
        ("对！真的：好", "对真的好", "对！真的：好"),
        ("一 二、三丶四", "一二三四", "一二三四"),
        ("iPhone pro 手机", "IPHONE PRO手机", "IPHONEPRO手机"),
    ],
)
def test_zh_modes(text, ours, official):
    assert normalise(text, "zh_char") == ours
    assert normalise(text, "zh_char_official") == official


def test_none_only_collapses_white_space():
    assert normalise(" a,  B\t<sil>\n", "none") == "a, B <sil>"


@given(st.text(), st.sampled_from(PROFILES))
@settings(max_examples=200)
def test_profiles_are_idempotent(text, profile):
    once = normalise(text, profile)
    assert normalise(once, profile) == once
    assert once == once.strip() and "  " not in once


@given(st.text(alphabet="ab 好。<>silspace-%'’ＡＺ，", max_size=30), st.sampled_from(PROFILES))
@settings(max_examples=300)
def test_profiles_are_idempotent_near_tags(text, profile):
    once = normalise(text, profile)
    assert normalise(once, profile) == once


@given(st.lists(st.text(alphabet="ab 好丶。<sil>\n\r'，？", max_size=9), max_size=6), st.sampled_from(PROFILES))
@settings(max_examples=200)
def test_all_texts_at_once_are_as_each_alone(texts, profile):
    assert normalise_all(texts, profile) == [normalise(text, profile) for text in texts]


@given(st.text())
@settings(max_examples=100)
def test_units_keep_every_character(text):
    bare = "".join(text.split())
    for unit in ("word", "char", "mixed"):
        assert "".join(tokens(text, unit)) == bare
        assert not any(c.isspace() for token in tokens(text, unit) for c in token)


def test_units():
    assert tokens("用AI MODEL吧", "word") == ["用AI", "MODEL吧"]
    assert tokens("用AI MODEL吧", "mixed") == ["用", "AI", "MODEL", "吧"]
    assert tokens("用AI", "char") == ["用", "A", "I"]


def test_unknown_names_are_errors_that_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'en_libri'"):
        normalise("a", "en_libre")
    with pytest.raises(UserError, match="did you mean 'char'"):
        tokens("a", "chars")


def test_real_alimeeting_text_becomes_ideographs_only(real_data):
    import re

    seen = 0
    for path in sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid")):
        for text in re.findall(r'text = "(.+?)"', path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\u4e00-\u9fff\u3007A-Z0-9' ]*", normalise(text, "zh_char")), text
            assert not set(normalise(text, "zh_char_official")) & set("，。？、"), text
            seen += 1
    assert seen > 1000
