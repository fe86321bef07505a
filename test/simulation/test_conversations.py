"""Simulated conversations: the rules of their timing, and turns, pauses and overlaps as in the real ones."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import groupby, islice

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.corpora import fsdd
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.rttm import write_rttm
from espnet_mt_llm.datadir.stm import read_stm
from espnet_mt_llm.datadir.textgrid import read_textgrid
from espnet_mt_llm.datadir.validate import validate
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.conversations import FittedSteps, Pool, Step, concatenated_steps, converse
from espnet_mt_llm.simulation.draw import REPORT, draw_mixtures, draw_sets
from espnet_mt_llm.simulation.manifest import Manifest
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, render
from espnet_mt_llm.simulation.sources import Sources, read_sources
from espnet_mt_llm.simulation.turn_statistics import (
    ROWS, TurnStatistics, read_conversations, read_report, read_statistics,
)
from espnet_mt_llm.simulation.write import write_mixtures

RATE = 16000


def pool_of(lengths):
    return Pool([float(n) for n in lengths])


def spans(turns):
    return [(t.speaker, t.onset, t.onset + t.seconds) for t in turns]


LENGTHS = st.lists(st.integers(2, 1500).map(lambda n: n / 100 + 0.0012345), min_size=1, max_size=30)
COUNTS = st.dictionaries(st.integers(0, 700), st.integers(1, 5), max_size=4)
STATISTICS = st.builds(TurnStatistics, same_pause=COUNTS, other_pause=COUNTS, takeover=COUNTS, within=COUNTS).filter(
    lambda s: s.same_pause or s.other_pause or s.takeover or s.within)


def check_rules(turns, speakers, duration):
    """What holds for every conversation, whatever it is drawn from."""
    onsets = [t.onset for t in turns]
    assert onsets[0] == 0 and all(b - a > 0.009 for a, b in zip(onsets, onsets[1:]))
    assert all(abs(100 * onset - round(100 * onset)) < 1e-6 for onset in onsets)
    assert {t.speaker for t in turns} == set(range(speakers))
    assert max(end for *_, end in spans(turns)) <= duration + 1e-5
    assert len({(t.speaker, t.utterance) for t in turns}) == len(turns)
    for _, own in groupby(sorted(spans(turns)), key=lambda s: s[0]):
        own = list(own)
        assert all(a[2] <= b[1] + 1e-5 for a, b in zip(own, own[1:]))


@given(st.lists(LENGTHS, min_size=1, max_size=5), STATISTICS, st.integers(0, 10**6), st.floats(0, 40))
def test_rules_of_fitted_conversations(lengths, statistics, seed, more):
    pools = [pool_of(of_speaker) for of_speaker in lengths]
    duration = sum(pool.shortest + 0.01 for pool in pools) + more  # from "each says a word" on
    chance = Chance(seed)
    turns = converse(chance, pools, FittedSteps(statistics)(chance), duration)
    check_rules(turns, len(pools), duration)
    again = Chance(seed)
    assert converse(again, pools, FittedSteps(statistics)(again), duration) == turns  # and the pools are as they were


def test_who_talks_alone_pauses_as_one_speaker_does():
    counts = TurnStatistics(same_pause={89: 1, 120: 1}, other_pause={20: 8}, takeover={50: 9}, within={30: 9})
    chance = Chance(1)
    steps = list(islice(FittedSteps(counts)(chance, 1), 50))
    assert {step.gap for step in steps} == {0.89, 1.2} and all(step.same and not step.within for step in steps)
    assert {step.gap for step in islice(FittedSteps(replace(counts, same_pause={}))(chance, 1), 9)} == {0.2}
    alone = replace(counts, same_pause={}, other_pause={})
    assert {step.gap for step in islice(FittedSteps(alone)(chance, 1), 9)} == {0.0}


def test_the_report_is_of_conversations_of_several(sources, target, tmp_path):
    several = configuration(source=str(sources.path), conversation="statistics", statistics=str(target), duration=5,
                            num_mixtures={2: 6})
    draw_sets({"several": several, "all": replace(several, num_mixtures={1: 6, 2: 6})}, tmp_path)
    few, every = (read_report(tmp_path / name / REPORT) for name in ("several", "all"))
    assert (few["conversations"], every["conversations"]) == (6, 12) and every["turns"] > few["turns"]
    one = TurnStatistics.of(c for c in read_conversations(tmp_path / "all") if len({s for s, *_ in c}) == 2).summary()
    assert every["achieved"] == one


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.integers(0, 10**6), st.floats(0, 3), st.floats(0, 3))
def test_rules_of_concatenated_conversations(lengths, seed, low, width):
    pools = [pool_of(of_speaker) for of_speaker in lengths]
    chance = Chance(seed)
    duration = sum(pool.shortest + 0.01 for pool in pools) + 30
    turns = converse(chance, pools, concatenated_steps(chance, len(pools), (low, low + width)), duration)
    check_rules(turns, len(pools), duration)
    placed = spans(turns)
    gaps = [b[1] - a[2] for a, b in zip(placed, placed[1:])]
    assert all(-1e-5 <= gap <= low + width + 0.0101 for gap in gaps)


def test_pool():
    pool = pool_of([3, 1, 2, 5])
    assert pool.shortest == 1
    assert {pool.copy().take(Chance(k), 1.5, 3.5) for k in range(20)} == {(0, 3.0), (2, 2.0)}
    assert pool.copy().take(Chance(0), 10, 4) == (0, 3.0)  # none is so long: the longest that fits
    assert pool.copy().take(Chance(0), 4, 4.5) == (0, 3.0)
    rest = pool.copy()
    assert {rest.take(Chance(0), 0, 9)[0] for _ in range(4)} == {0, 1, 2, 3} and rest.shortest == np.inf
    many = pool_of([k / 10 for k in range(1, 101)])
    near = [many.copy().take_near(Chance(k), 5.0, 5.2) for k in range(50)]
    assert all(4.2 <= seconds <= 5.2001 for _, seconds in near) and len(set(near)) > 5
    assert many.copy().take_near(Chance(1), 0.0, 0.1) == (0, 0.1)


def test_step_by_step():
    """B answers inside A's turn, then breaks in a second before A ends; after a pause B goes on."""
    for seed in range(20):
        pools = [pool_of([6.0] * 3), pool_of([0.5] + [6.0] * 3)]
        steps = iter([Step(False, -1.0, (0.5,)), Step(True, 0.3), Step(False, 9.0)])
        turns = spans(converse(Chance(seed), pools, steps, 18.0))
        if len(turns) == 4 and turns[0][0] == 0:
            answer, takeover, on = turns[1:]
            assert answer[0] == 1 and 0 < answer[1] and answer[2] <= 5.01
            assert takeover == (1, 5.0, 11.0) and on == (1, 11.3, 17.3)
            return
    raise AssertionError("A never began")


def of_durations(conversations, least=100):
    """Return a pool for each speaker: the lengths of what the speaker said in a real meeting."""
    lengths = {}
    for k, conversation in enumerate(conversations):
        for speaker, start, end in conversation:
            lengths.setdefault(f"{k}{speaker}", []).append(end - start)
    return [pool_of(of_speaker) for of_speaker in lengths.values() if len(of_speaker) >= least]


@pytest.fixture(scope="module")
def meetings(real_data):
    far = real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir"
    read = {"alimeeting": [read_textgrid(path) for path in sorted(far.glob("*.TextGrid"))],
            "aishell4": [read_stm(path) for path in sorted((real_data / "aishell4" / "stm").glob("*.stm"))]}
    return {corpus: [[(s["speaker"], s["start_time"], s["end_time"]) for s in one] for one in listed]
            for corpus, listed in read.items()}


@pytest.mark.parametrize("corpus", ["alimeeting", "aishell4"])
@pytest.mark.parametrize("speakers", [2, 4])
def test_statistics_of_real_meetings_are_met(meetings, corpus, speakers):
    """1,000 conversations of 50 s from utterances as long as the real ones; 4 and 30 % of the speech is overlapped."""
    statistics = TurnStatistics.of(meetings[corpus]).limited(7.0)
    pools, fitted, simulated = of_durations(meetings[corpus]), FittedSteps(statistics), []
    for number in range(1000):
        chance = Chance(number)
        turns = converse(chance, chance.sample(pools, speakers), fitted(chance), 50.0)
        simulated.append(spans(turns))
        assert max(end for *_, end in simulated[-1]) > 40 and {t.speaker for t in turns} == set(range(speakers))
    target, achieved = statistics.summary(), TurnStatistics.of(simulated).summary()
    for key, tolerance in {"speech_share": 0.02, "same_speaker": 0.04, "overlap_at_change": 0.05,
                           "within_at_overlap": 0.06, "overlap_share": 0.06}.items():
        assert abs(achieved[key] - target[key]) < tolerance, key
    for key, tolerance in {"same_pause_mean": 0.05, "same_pause_median": 0.05, "other_pause_mean": 0.05,
                           "other_pause_median": 0.06, "overlap_mean": 0.15, "overlap_median": 0.08}.items():
        assert abs(achieved[key] - target[key]) < tolerance, key
    assert 0.9 < achieved["turns_per_minute"] / target["turns_per_minute"] < 1.35  # the last words of the 50 s are few


def test_concatenated_turns():
    pools = [pool_of(np.random.default_rng(k).uniform(1, 12, 200)) for k in range(4)]
    simulated = []
    for number in range(500):
        chance = Chance(number)
        simulated.append(spans(converse(chance, pools, concatenated_steps(chance, 4, (0.1, 0.5)), 50.0)))
    s = TurnStatistics.of(simulated)
    achieved = s.summary()
    assert not s.overlap and s.overlapped == 0 and abs(achieved["same_speaker"] - 0.25) < 0.04
    assert all(k <= 51 for k in (*s.same_pause, *s.other_pause))
    shorter = sum(n for counts in (s.same_pause, s.other_pause) for k, n in counts.items() if k < 10)
    assert shorter < 0.01 * s.turns  # only where the next speaker would not fit in any more
    assert abs(achieved["other_pause_mean"] - 0.3) < 0.01 and achieved["speech_per_conversation"] > 44


CONCATENATED = {"source": "train", "num_mixtures": {2: 3, 3: 3}, "conversation": "concatenated", "duration": 6}


def configuration(**values):
    return SimulationConfig.parse({**CONCATENATED, **values}, "test")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """An RTTM with pauses, takeovers and back-channels that are short enough for short sources."""
    path = tmp_path_factory.mktemp("target") / "ref.rttm"
    rng, rows, time = np.random.default_rng(5), [], 0.0
    for k in range(200):
        length = round(rng.uniform(0.4, 1.2), 2)
        rows.append({"session_id": "m", "speaker": "ABC"[rng.integers(3)], "start_time": round(time, 2),
                     "end_time": round(time + length, 2)})
        time += length + round(rng.uniform(-0.25, 0.35), 2)
    write_rttm(path, rows)
    return str(path)


@pytest.fixture(params=["concatenated", "statistics"])
def config(request, target, sources, noise_scp, rir_scp):
    values = {"statistics": target} if request.param == "statistics" else {}
    return configuration(conversation=request.param, source=str(sources.path), noise_scp=noise_scp, rir_scp=rir_scp,
                         rir_probability=0.7, **values)


def drawn(sources, config, name="talk"):
    statistics = read_statistics(config.statistics).limited(config.max_gap) if config.statistics else None
    return list(draw_mixtures(Sources.of(sources.path), config, name, statistics))


def test_conversations_are_mixtures(sources, config):
    mixtures = drawn(sources, config)
    assert [m.id for m in mixtures] == [f"talk-{k}spk-{n:06d}" for k in (2, 3) for n in range(3)]
    for m in mixtures:
        assert len(m.speakers) == int(m.id.split("-")[1][0]) and len(m.sources) > len(m.speakers)
        assert m.num_samples <= 6 * RATE and m.num_samples >= 3 * RATE
        for spk in m.speakers:  # the same room and the same gain in every turn
            assert len({(s.rir, s.gain) for s in m.sources if s.spk == spk}) == 1
        assert [s.offset for s in m.sources] == sorted(s.offset for s in m.sources)
    assert len({s.rir for m in mixtures for s in m.sources}) == 3  # two rooms and none
    assert any(m.overlap for m in mixtures) == (config.conversation == "statistics")


def test_noise_is_at_the_drawn_ratio(sources, config):
    for m in drawn(sources, config):
        rendered = render(m, SourceCache())
        speech = np.sum(rendered.sources, axis=0, dtype=float)
        ratio = 10 * np.log10(np.mean(speech ** 2) / np.mean(rendered.noise.astype(float) ** 2))
        assert 10 <= m.noise.snr <= 20 and abs(ratio - m.noise.snr) < 0.1
        assert np.abs(rendered.mixture).max() <= 0.9901
        assert all(np.abs(part).max() <= 0.9901 for part in rendered.sources)


def test_level_is_a_speakers_own(sources):
    config = configuration(level=-30, level_db=[-6, 6])
    levels = set()
    for m in drawn(sources, config):
        rendered = render(m, SourceCache())
        for spk, signal in zip(m.speakers, rendered.sources):
            own = [s for s in m.sources if s.spk == spk]
            stretches = [signal[round(s.offset * RATE):][:s.num_samples(RATE)] for s in own]
            level = 10 * np.log10(np.mean(np.square(np.concatenate(stretches), dtype=float)))
            assert -36.05 <= level <= -23.95
            levels.add(round(level, 1))
    assert len(levels) > 5
    free = drawn(sources, configuration(level=None, level_db=[0, 0]))
    assert {s.gain for m in free for s in m.sources} == {1.0}


def test_a_conversation_depends_on_its_number_alone(sources, config):
    few = drawn(sources, replace(config, num_mixtures={3: 2}))
    assert few == drawn(sources, config)[3:5]
    assert few != drawn(sources, replace(config, num_mixtures={3: 2}, seed=1))


def test_conversations_of_all_lengths(sources):
    lengths = [m.num_samples / m.rate for m in drawn(sources, configuration(duration=[2, 8], num_mixtures={2: 60}))]
    assert min(lengths) < 4 and max(lengths) > 6 and max(lengths) <= 8 + 1e-5
    fixed = [m.num_samples / m.rate for m in drawn(sources, configuration(duration=8, num_mixtures={2: 60}))]
    assert np.std(lengths) > 2 * np.std(fixed)


def test_several_processes_draw_the_same(sources, config):
    config = replace(config, num_mixtures={2: 12, 3: 9})
    statistics = read_statistics(config.statistics).limited(7) if config.statistics else None
    one, two = (list(draw_mixtures(Sources.of(sources.path), config, "talk", statistics, nj)) for nj in (1, 2))
    assert one == two and len(one) == 21


def test_a_mistake_in_a_process_is_the_users(sources):
    with pytest.raises(UserError, match="never within duration"):
        config = configuration(duration=0.9, num_mixtures={3: 20})
        list(draw_mixtures(Sources.of(sources.path), config, "talk", None, 2))


def test_sets_are_written_and_streamed_alike_with_the_same_bytes(sources, config, tmp_path):
    configs = {"written": config, "piped": replace(config, write=False)}
    assert draw_sets(configs, tmp_path) == {"written": 6, "piped": 6}
    write_mixtures(tmp_path / "written")
    data, manifest = DataDir.read(tmp_path / "written"), Manifest(tmp_path / "written" / "mixtures.jsonl")
    streamed = MixtureReader(tmp_path / "written" / "mixtures.jsonl")
    for rec, mixture in manifest.items():
        samples, _ = read_audio(data.wav[rec])
        assert np.array_equal(samples, streamed[rec][1])
        assert data.extra["utt2num_spk"][rec] == str(len(mixture.speakers))
        parts = [read_audio(view[rec])[0] for name, view in data.extra.items() if name.endswith(".scp") and rec in view]
        assert len(parts) == len(mixture.speakers) + 1 and np.array_equal(np.sum(parts, axis=0), samples)
        own = sorted((u.start, u.spk, u.text) for u in data.utterances if u.rec == rec)
        assert own == [(s.offset, s.spk, s.text) for s in mixture.sources]
    assert "spk3.scp" in data.extra and "spk4.scp" not in data.extra
    assert validate(tmp_path / "written", audio=True) == validate(tmp_path / "piped") == []
    before = {f.name: f.read_bytes() for f in (tmp_path / "written").iterdir() if f.is_file()}
    draw_sets(configs, tmp_path, ["written"])
    assert {f.name: f.read_bytes() for f in (tmp_path / "written").iterdir() if f.is_file()} == before
    assert (tmp_path / "written" / "audio").exists()  # the manifest is the same, so its audio is still good


def test_report(sources, config, tmp_path):
    draw_sets({"talk": config}, tmp_path)
    report = json.loads((tmp_path / "talk" / REPORT).read_text())
    achieved = read_statistics(tmp_path / "talk")
    assert report["conversations"] == 6 and report["turns"] == achieved.turns
    assert report["achieved"] == achieved.summary()
    if config.statistics:
        target = read_statistics(config.statistics)
        assert report["target"] == {**target.summary(), "speech_per_conversation":
                                    pytest.approx(6 * target.summary()["speech_share"], abs=1e-3)}
    else:
        assert report["target"]["overlap_share"] == 0 and report["target"]["other_pause_mean"] == 0.3
        assert report["target"]["same_speaker"] == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-4)


def test_command_prints_target_and_achieved(sources, target, tmp_path, repository):
    (tmp_path / "simulate.yaml").write_text(
        f"defaults: {{source: {sources.path}, num_mixtures: {{2: 2}}}}\nmix: {{}}\n"
        f"talk: {{conversation: statistics, statistics: {target}, duration: 5}}\n")
    command = [sys.executable, "-m", "espnet_mt_llm.bin.draw_mixtures", "--config", str(tmp_path / "simulate.yaml"),
               "--data_dir", str(tmp_path / "data"), "--nj", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].endswith("/mix: 2 mixtures") and "/talk: 2 conversations, " in lines[1]
    assert lines[2].split() == ["target", "achieved"] and len(lines) == 3 + len(ROWS)
    (tmp_path / "simulate.yaml").write_text(f"talk: {{source: {sources.path}, num_mixtures: {{2: 2}}, "
                                            "conversation: statistics, statistics: nowhere}\n")
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 1 and "nowhere: no such data directory" in ran.stderr and "Traceback" not in ran.stderr


def test_sources_of_several_directories(tmp_path, sources):
    """Two directories call different people S0: their speakers are kept apart, and channels come along."""
    other = {"rec00": str(tmp_path / "stereo.wav")}
    soundfile.write(tmp_path / "stereo.wav", np.random.default_rng(3).normal(0, 0.05, (2 * RATE, 2)), RATE)
    DataDir(tmp_path, other, [Utterance(make_utt_id("S0", "rec00", a / 4, a / 4 + 0.25), "rec00", "S0", a / 4,
                                        a / 4 + 0.25, "hi") for a in range(8)],
            extra={"channel": {"rec00": "2"}}).write(tmp_path / "near")
    pooled = read_sources(tmp_path, [str(sources.path), "near"])
    assert set(pooled.names) == {"train_S0", "train_S1", "train_S2", "train_S3", "near_S0"}
    config = configuration(source=[str(sources.path), "near"], num_mixtures={5: 2})
    draw_sets({"talk": config}, tmp_path)
    for m in Manifest(tmp_path / "talk" / "mixtures.jsonl").values():
        assert len(m.speakers) == 5
        assert {s.channel for s in m.sources if s.spk == "near_S0"} == {2}
        assert {s.channel for s in m.sources if s.spk != "near_S0"} == {None}
        render(m, SourceCache())


@pytest.mark.parametrize("names, words", [
    (["aishell2_train"], "no such data directory; stage 1 makes it with AISHELL2 set in db.sh"),
    (["near", "librispeech_train_clean_100"], "LIBRISPEECH set in db.sh, or take it out of 'source'"),
    (["absent"], "stage 1 makes it, where db.sh says where the corpus is"),
])
def test_missing_sources(tmp_path, sources, names, words):
    sources.write(tmp_path / "near")
    with pytest.raises(UserError) as caught:
        read_sources(tmp_path, names)
    assert words in str(caught.value)


def test_mistakes_in_drawing(sources, tmp_path, target):
    with pytest.raises(UserError, match="in 100 draws of 3 speakers, one utterance of each was never within duration"):
        drawn(sources, configuration(duration=0.9, num_mixtures={3: 1}))
    with pytest.raises(UserError, match="4 speakers for mixtures of 5 talkers"):
        drawn(sources, configuration(num_mixtures={5: 1}))
    absent = configuration(source=str(sources.path), conversation="statistics", statistics="absent.rttm")
    with pytest.raises(UserError, match="absent.rttm: no such data directory"):
        draw_sets({"talk": absent}, tmp_path)
    assert not (tmp_path / "talk").exists()


def test_statistics_may_be_a_set_beside_the_sources(sources, tmp_path):
    sources.write(tmp_path / "train")
    write_map(tmp_path / "noise.scp", {})
    config = configuration(conversation="statistics", statistics="train", num_mixtures={2: 1})
    with pytest.raises(UserError, match="no pauses and no overlaps"):
        draw_sets({"talk": config}, tmp_path)  # each recording has one utterance: there is no turn to learn from
    draw_sets({"first": configuration(num_mixtures={2: 2})}, tmp_path)
    assert draw_sets({"talk": replace(config, statistics="first")}, tmp_path) == {"talk": 1}


def test_real_noise_rooms_and_speech(real_data, tmp_path):
    """Digit strings of real speakers, in rooms, with noise, timed as an AliMeeting meeting."""
    write_map(tmp_path / "rir.scp", {f"rir{k}": str(real_data / "noise_rir" / f"rir{k}.wav") for k in range(1, 5)})
    write_map(tmp_path / "noise.scp", {f"n{k}": str(real_data / "noise_rir" / f"noise{k}.wav") for k in range(1, 6)})
    fsdd.prepare(real_data / "fsdd", tmp_path / "data", {"test": 60})
    meeting = sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid"))[0]
    write_rttm(tmp_path / "meeting.rttm", read_textgrid(meeting))
    config = SimulationConfig.parse({
        "source": "test", "num_mixtures": {2: 1, 4: 1}, "conversation": "statistics", "duration": 20, "rate": RATE,
        "statistics": str(tmp_path / "meeting.rttm"), "noise_scp": str(tmp_path / "noise.scp"),
        "rir_scp": str(tmp_path / "rir.scp")}, "test")
    draw_sets({"talk": config}, tmp_path / "data")
    write_mixtures(tmp_path / "data" / "talk")
    for rec, entry in DataDir.read(tmp_path / "data" / "talk").wav.items():
        samples, rate = read_audio(entry)
        assert rate == RATE and 15 * RATE < len(samples) <= 20 * RATE and 0.02 < np.abs(samples).max() < 0.995
