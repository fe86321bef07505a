"""Prompts and the places in them."""

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.prompts import AUDIO, MODES, PROMPTS, build_prompt, encode_prompt, enroll, template


class Letters:
    def encode(self, text):
        return [ord(c) for c in text]


def test_published_prompts():
    assert build_prompt(template("speakerlm", "asr")) == [
        "You are a helpful assistant. Transcribe the speech. <start>", AUDIO, "<end>"]
    assert build_prompt(template("speakerlm", "over"), ["Mike", "张三"])[:5] == [
        "Mike<start>", -2, "<end>张三<start>", -3, "<end>You are a helpful assistant. Transcribe by roles with the "
        "registered speakers. <start>"]
    assert build_prompt(template("dual", "no")) == [
        "<|im_start|>user\n", AUDIO,
        "Transcribe the conversation with speaker IDs.<|im_end|>\n<|im_start|>assistant\n"]


def test_every_prompt_has_its_places():
    for style in PROMPTS:
        for mode in MODES:
            names = ["Mike", "Lucy"] if mode in ("match", "over") else []
            ids = encode_prompt(build_prompt(template(style, mode), names), Letters())
            assert [i for i in ids if i < 0].count(AUDIO) == 1
            assert [i for i in ids if i < -1] == [enroll(k) for k in range(len(names))]


def test_registering_nobody_is_possible_where_somebody_could_be():
    assert build_prompt(template("speakerlm", "match"))[0].startswith("You are")


@pytest.mark.parametrize("call, message", [
    (lambda: template("speakerml", "no"), "unknown prompt 'speakerml'; did you mean 'speakerlm'"),
    (lambda: template("dual", "mach"), "unknown registration mode 'mach'; did you mean 'match'"),
    (lambda: build_prompt("no audio"), "needs {audio} once"),
    (lambda: build_prompt("{audio}{audio}"), "needs {audio} once"),
    (lambda: build_prompt("{registered}{audio}{registered}"), "{registered} once at most"),
    (lambda: build_prompt("{audio}", ["Mike"]), "1 speakers are registered; add it"),
    (lambda: build_prompt(template("dual", "match"), ["spk1"]), "looks like the label"),
    (lambda: build_prompt(template("dual", "match"), ["Mike", "Mike"]), "registered twice"),
])
def test_bad_input(call, message):
    with pytest.raises(UserError) as e:
        call()
    assert message in str(e.value)
