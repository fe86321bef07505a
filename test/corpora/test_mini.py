"""The synthetic corpus: disjoint speakers and sentences, the same bytes in any order and number of processes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.corpora import mini
from espnet_mt_llm.corpora.espeak import speak
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import DataDir

SMALL = {"train": 12, "dev": 4, "test": 6}


def prepare(tmp_path, name, **options):
    mini.prepare(tmp_path / name / "mini", tmp_path / name / "data", **{"num_utterances": SMALL, **options})
    return {path.relative_to(tmp_path / name): path.read_bytes() for path in sorted((tmp_path / name).rglob("*.flac"))}


def test_speech_does_not_depend_on_what_was_said_before():
    requests = [("en-us+f3", "the dog sleeps", 160, 50, 50), ("en-us+paul", "my king waits", 150, 30, 40),
                ("cmn+m1", "老师今天唱歌", 170, 60, 60)]
    first = [speak(*request) for request in requests]
    for request, (samples, rate) in reversed(list(zip(requests, first))):
        again, _ = speak(*request)
        assert rate == 22050 and np.array_equal(again, samples) and 0.5 < len(samples) / rate < 4


def test_speech_is_the_same_in_another_process(repository):
    script = ("import hashlib; from espnet_mt_llm.corpora.espeak import speak;"
              "samples, _ = speak('en-us+linda', 'every clever bird sings', 165, 55, 45);"
              "print(hashlib.md5(samples.tobytes()).hexdigest())")
    env = {**os.environ, "PYTHONPATH": str(repository)}
    said = {subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True).stdout
            for _ in range(2)}
    assert len(said) == 1


def test_unknown_voice_is_named():
    with pytest.raises(UserError, match="made no speech of 'hello' with the voice 'xx-nowhere'"):
        speak("xx-nowhere", "hello", 160, 50, 50)


def test_same_bytes_for_any_number_of_processes_and_sizes(tmp_path):
    first = prepare(tmp_path, "a")
    assert len(first) == sum(SMALL.values())
    assert prepare(tmp_path, "b", nj=2) == first
    # A smaller corpus is the beginning of the larger one, and what is there is kept.
    fewer = {name: number // 2 for name, number in SMALL.items()}
    begin = prepare(tmp_path, "c", num_utterances=fewer)
    assert begin.items() <= first.items() and len(begin) == sum(fewer.values())
    times = {path: (tmp_path / "c" / path).stat().st_mtime_ns for path in begin}
    assert prepare(tmp_path, "c") == first
    assert {path: (tmp_path / "c" / path).stat().st_mtime_ns for path in begin} == times


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_data_directories(tmp_path, lang):
    prepare(tmp_path, "x", lang=lang)
    vocabulary = mini.GRAMMARS[lang].words
    for name, number in SMALL.items():
        data = DataDir.read(tmp_path / "x" / "data" / name)
        assert len(data.utterances) == number
        for u in data.utterances:
            assert Path(data.wav[u.rec]).parent == tmp_path / "x" / "mini" / lang / u.spk
            samples, rate = read_audio(data.wav[u.rec], u.start, u.end)
            assert rate == 16000 and u.utt == f"{u.spk}-{u.rec}-0000000-{round(100 * u.end):07d}"
            # Tight: the first and the last 60 ms are not silent.
            level = np.sqrt(np.mean(samples ** 2))
            assert min(np.abs(samples[:960]).max(), np.abs(samples[-960:]).max()) > 0.01 * level and level > 0.02
            if lang == "en":
                assert 3 <= len(u.text.split()) <= 7 and set(u.text.split()) <= set(vocabulary)
            else:
                assert u.text and all("一" <= character <= "鿿" for character in u.text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_sentences_are_disjoint_and_words_are_not(lang):
    numbers = mini.NUM_UTTERANCES
    texts = {name: [r.text for r in mini.draw_recordings(name, numbers[name], lang, Path("x"), 1)] for name in numbers}
    assert 40 <= len(mini.GRAMMARS[lang].words) <= 80
    for name, others in (("train", ("dev", "test")), ("dev", ("test",))):
        assert not any(set(texts[name]) & set(texts[other]) for other in others)
    assert len(set(texts["test"])) > 150
    for sentences in texts.values():
        joined = " ".join(sentences)
        assert all(word in joined for word in mini.GRAMMARS[lang].words)


def test_speakers():
    variants = [v for names in mini.VARIANTS.values() for v in names]
    assert len({v.lower() for v in variants}) == len(variants) >= 40
    assert len(mini.VARIANTS["train"]) >= 30 and len(mini.VARIANTS["dev"]) >= 4 and len(mini.VARIANTS["test"]) >= 6
    speakers = [s for name in mini.VARIANTS for s in mini.speakers_of(name, 1)]
    assert len({(s.variant, s.speed, s.pitch, s.pitch_range) for s in speakers}) == len(speakers)
    for name in mini.VARIANTS:  # every speaker speaks, and about as often as the others
        spoken = [r.speaker.id for r in mini.draw_recordings(name, mini.NUM_UTTERANCES[name], "en", Path("x"), 1)]
        counts = [spoken.count(s.id) for s in mini.speakers_of(name, 1)]
        assert max(counts) - min(counts) <= 1


def test_a_system_with_registration_draws_the_names_of_dev_and_test(repository):
    names = (repository / "egs2/mini/mtasr1/conf/names").read_text().split()
    assert len(names) == len(set(names)) == 350
    for crowd in ("dev", "test", mini.TRACTS):
        assert {s.id for s in mini.speakers_of(crowd + mini.CROWD, 1)} <= set(names)


def test_crowds():
    crowds = {name: mini.speakers_of(name + mini.CROWD, 1) for name in (*mini.VARIANTS, mini.TRACTS)}
    assert {name: len(speakers) for name, speakers in crowds.items()} == \
        {"train": 768, "dev": 24, "test": 64, mini.TRACTS: 64}
    everybody = [s for speakers in crowds.values() for s in speakers]
    assert len({s.id for s in everybody}) == len(everybody) == len({replace(s, id="") for s in everybody})
    assert {s.formants for name in ("dev", "test") for s in crowds[name]} == {100}
    formants = [s.formants for s in crowds["train"]]
    assert set(formants[:192]) == {100} and min(formants) == 86 and max(formants) == 116
    tracts = crowds[mini.TRACTS]  # the same voices, but none with the vocal tract of another one of its variant
    assert [replace(s, id="", formants=100) for s in tracts] == [replace(s, id="") for s in crowds["test"]]
    assert len({(s.variant, s.formants) for s in tracts}) == 64
    for name, speakers in crowds.items():  # all speak as often as the others
        number = mini.NUM_UTTERANCES[name + mini.CROWD]
        spoken = [r.speaker.id for r in mini.draw_recordings(name + mini.CROWD, number, "en", Path("x"), 1)]
        assert {spoken.count(s.id) for s in speakers} == {number // len(speakers)}


def test_formants_move_and_the_tempo_does_not(tmp_path):
    centre, length = {}, {}
    for formants in (86, 100, 116):
        out = tmp_path / f"{formants}.flac"
        speaker = mini.Speaker("x", "m3", 160, 40, 40, formants)
        mini.make_recording(mini._Recording(str(out), "en-us+m3", "every clever bird sings today", speaker))
        samples, _ = read_audio(out)
        power = np.abs(np.fft.rfft(samples)) ** 2
        # The frequency below which nine tenths of the power are.
        centre[formants] = np.searchsorted(np.cumsum(power), 0.9 * power.sum()) / len(samples)
        length[formants] = len(samples)
    assert 1.08 * centre[86] < centre[100] < centre[116] / 1.08
    assert max(length.values()) < 1.08 * min(length.values())


def test_no_word_twice_in_a_sentence():
    for seed in range(200):
        words = mini.GRAMMARS["en"].draw(Chance(seed)).split()
        assert len(set(words)) == len(words)


def test_unknown_language_is_named(tmp_path, repository):
    ran = subprocess.run([sys.executable, "-m", "espnet_mt_llm.bin.prepare_mini", "--root", str(tmp_path), "--out",
                          str(tmp_path), "--lang", "xx"], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(repository)})
    assert ran.returncode == 1 and "no grammar for the language 'xx'" in ran.stderr and "Traceback" not in ran.stderr


def test_a_run_after_a_kill_completes(tmp_path, repository):
    expected = prepare(tmp_path, "whole", num_utterances={"train": 30})
    script = (f"from espnet_mt_llm.corpora import mini; mini.prepare({str(tmp_path / 'k' / 'mini')!r}, "
              f"{str(tmp_path / 'k' / 'data')!r}, num_utterances={{'train': 30}})")
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(repository)})
    while process.poll() is None and len(list((tmp_path / "k").rglob("*.flac"))) < 5:
        pass
    process.kill()
    process.wait()
    done = {path.relative_to(tmp_path / "k"): path.read_bytes() for path in (tmp_path / "k").rglob("mini*.flac")
            if not path.name.startswith(".tmp")}
    assert done.items() <= expected.items()
    prepare(tmp_path, "k", num_utterances={"train": 30})
    assert {p: b for p, b in expected.items()} == {
        path.relative_to(tmp_path / "k"): path.read_bytes() for path in (tmp_path / "k").rglob("mini*.flac")}


def test_full_disk_leaves_no_half_recording(tmp_path, full_disk):
    expected = prepare(tmp_path, "whole", num_utterances=mini.DEBUG_NUM_UTTERANCES)
    full_disk(sorted(map(len, expected.values()))[-10], "prepare_mini", "--root", tmp_path / "k" / "mini",
              "--out", tmp_path / "k" / "data", "--debug", "true", "--nj", 2)
    done = {path.relative_to(tmp_path / "k"): path.read_bytes() for path in (tmp_path / "k").rglob("*.flac")}
    assert 0 < len(done) < len(expected) and done.items() <= expected.items()
    assert prepare(tmp_path, "k", num_utterances=mini.DEBUG_NUM_UTTERANCES) == expected
