"""What may be a registered name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.names import as_name, check_name, check_names, name_speakers
from espnet_mt_llm.text.parsing import parse_output


@pytest.mark.parametrize("name", ["Mike", "张三", "Zoë", "O'Neil", "R8001_M8004", "N_SPK8013", "SPK1", "001-M",
                                  "さくら", "J.R.", "अनिल"])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name, message", [
    ("Mike: B", "holds ':'.*for example 'Mike_B'"),
    ("Mike B", "holds ' '.*one word.*'Mike_B'"),
    ("Mike🙂", "holds '🙂'.*for example 'Mike'"),
    ("<start>", "holds '<'"),
    ("🙂", "for example 'S1'"),
    ("spk 1", "holds ' '"),
    ("spk1", "looks like the label of a speaker without a name; call him 'S1'"),
    ("spk_12", "looks like the label"),
    ("spk", "looks like the label"),
    ("7", "has no letter, so it could be a speaker's number; call him 'S7'"),
    ("３", "has no letter"),
    ("a\n", "holds"),
    ("", "empty name"),
    (" ", "empty name"),
])
def test_what_is_no_name(name, message):
    with pytest.raises(UserError, match=message):
        check_names([name])


@pytest.mark.parametrize("names", [["Mike", "Mike"], ["Mike", "MIKE"], ["Ｍike", "Mike"]])
def test_one_name_for_two_speakers(names):
    with pytest.raises(UserError, match="is registered twice.*; give the second speaker another name"):
        check_names(names)


@given(st.text(min_size=1, max_size=6).filter(lambda s: s.strip()))
def test_every_name_is_read_back_as_a_label(name):
    try:
        check_name(name)
    except UserError:
        return
    assert parse_output(f"a {name}: b", "speakerlm", [name]).turns == [("0", "a"), (name, "b")]
    assert parse_output(f"b<SC> {name} a<SC>0", "sc_suffix", [name]).turns == [(name, "b"), ("0", "a")]


IDS = st.one_of(st.text(max_size=6), st.sampled_from(["1", "S1", "spk1", "spk 1", "s1", "", "S1_2"]))


@given(st.lists(IDS, max_size=8))
def test_every_speaker_gets_a_name(speakers):
    names = name_speakers(speakers)
    assert list(names) == list(dict.fromkeys(speakers))
    check_names(names.values())
    assert name_speakers(reversed(speakers)) == names
    assert all(as_name(check_name(name)) == name for name in names.values())


def test_who_has_a_name_keeps_it():
    assert name_speakers(["spk1", "1", "S1", "Mike"]) == {"spk1": "S1_3", "1": "S1_2", "S1": "S1", "Mike": "Mike"}
