"""Drawing: what the configuration promises holds for every mixture, and the same arguments give the same bytes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.draw import draw_mixtures, draw_onsets, draw_sets, overlap_share
from espnet_mt_llm.simulation.manifest import Manifest
from espnet_mt_llm.simulation.mixtures import SourceCache, layers, render
from espnet_mt_llm.simulation.sources import Sources, spoken_alone


def configuration(**values):
    return SimulationConfig.parse({"source": "train", "num_mixtures": {1: 4, 2: 6, 3: 6}, **values}, "test")


def drawn(sources, **values):
    return list(draw_mixtures(Sources.of(sources.path), configuration(**values), "set"))


def test_numbers_speakers_and_texts(sources):
    mixtures = drawn(sources)
    assert [len(m.sources) for m in mixtures] == [1] * 4 + [2] * 6 + [3] * 6
    assert len({m.id for m in mixtures}) == 16
    text = {u.utt: u.text for u in sources.utterances}
    for m in mixtures:
        assert len({s.spk for s in m.sources}) == len(m.sources)
        assert all(s.text == text[s.utt] for s in m.sources)
        assert [s.offset for s in m.sources] == sorted(s.offset for s in m.sources) and m.sources[0].offset == 0


def test_a_mixture_depends_on_its_number_alone(sources):
    few, many = drawn(sources, num_mixtures={2: 3}), drawn(sources, num_mixtures={1: 2, 2: 9})
    assert few == many[2:5]
    assert few != drawn(sources, num_mixtures={2: 3}, seed=1)


def test_nothing_clips_and_the_scale_is_recorded(sources):
    for level in (-26, -3, 10):
        mixtures = drawn(sources, level=level, overlap=[0.9, 1.0])
        for m in mixtures:
            peak = max(np.abs(signal).max() for _, signal in layers(m, SourceCache())) / 32768
            assert max(peak, np.abs(render(m, SourceCache()).mixture).max()) <= 0.9901
        scales = [m.scale for m in mixtures]
        assert set(scales) == {1.0} if level == -26 else min(scales) < 1
    assert all(0.98 < np.abs(render(m, SourceCache()).mixture).max() for m in mixtures)  # no more than needed


def test_levels(sources):
    for m in drawn(sources, level=-30, level_db=[-2, 3]):
        for signal, source in zip(render(m, SourceCache()).sources, m.sources):
            begin = round(source.offset * m.rate)
            rms = np.sqrt(np.mean(np.square(signal[begin:begin + source.num_samples(m.rate)], dtype=float)))
            assert -32.01 <= 20 * np.log10(rms) <= -26.99
    assert {s.gain for m in drawn(sources, level=None, level_db=[0, 0]) for s in m.sources} == {1.0}


def test_noise_at_the_drawn_ratio(sources, noise_scp, rir_scp):
    mixtures = drawn(sources, noise_scp=noise_scp, snr=[3, 9], rir_scp=rir_scp, rir_probability=0.5)
    assert {s.rir is None for m in mixtures for s in m.sources} == {True, False}
    for m in mixtures:
        rendered = render(m, SourceCache())
        speech = np.sum(rendered.sources, axis=0, dtype=float)
        ratio = 10 * np.log10(np.mean(speech ** 2) / np.mean(rendered.noise.astype(float) ** 2))
        assert 3 <= m.noise.snr <= 9 and abs(ratio - m.noise.snr) < 0.05
    assert all(m.noise is None for m in drawn(sources, noise_scp=noise_scp, noise_probability=0.0))


DURATIONS = st.lists(st.integers(30, 1000).map(lambda n: n / 100), min_size=1, max_size=5)


@given(DURATIONS, st.floats(-0.5, 1), st.floats(0, 0.5), st.integers(0, 99))
def test_overlap_is_the_configured_share_of_the_shorter(durations, low, width, seed):
    config = configuration(overlap=[low, min(low + width, 1)], min_onset_gap=0.3)
    onsets = draw_onsets(Chance(seed), durations, config)
    ends = [onset + duration for onset, duration in zip(onsets, durations)]
    for k in range(1, len(onsets)):
        gap, shorter = onsets[k] - onsets[k - 1], min(durations[k - 1:k + 1])
        assert gap >= 0.3 - 1e-9
        share = (ends[k - 1] - onsets[k]) / shorter
        assert share <= config.overlap[1] + 1e-9
        if gap > 0.31:
            assert share >= config.overlap[0] - 0.0101 / shorter
        assert ends[k] >= ends[k - 1] - 1e-9


def test_fixed_ranges_of_offsets(sources):
    for m in drawn(sources, offsets=[[1.0, 1.5], [2.5, 3.0]]):
        for source, (low, high) in zip(m.sources, ((0, 0), (1.0, 1.51), (2.5, 3.01))):
            assert low <= source.offset <= high


def test_ties_are_counted(sources):
    mixtures = drawn(sources, offsets=[[0.0, 0.01], [0.02, 0.04]], min_onset_gap=0, tie=0.05)
    assert [m.ties for m in mixtures] == [0] * 4 + [1] * 6 + [2] * 6
    assert not any(m.ties for m in drawn(sources))


def test_overlap_share():
    assert overlap_share([]) == 0 and overlap_share([(0, 1), (1, 2)]) == 0
    assert overlap_share([(0, 2), (0, 2), (0, 2)]) == 1
    assert overlap_share([(0, 2), (1, 3), (5, 6)]) == 0.25


def test_longest(sources):
    mixtures = drawn(sources, num_mixtures={3: 20}, max_duration=2.4)
    assert max(m.num_samples for m in mixtures) <= 2.4 * 16000
    with pytest.raises(UserError, match="no 3-talker mixture within max_duration: 0.5"):
        drawn(sources, max_duration=0.5, num_mixtures={3: 1})


def test_too_few_speakers(sources):
    with pytest.raises(UserError, match="4 speakers for mixtures of 5 talkers"):
        drawn(sources, num_mixtures={5: 1})


def test_speakers_of_a_mixture_from_one_source(sources, tmp_path):
    sources.write(tmp_path / "far")
    few = {u.spk: u for u in sources.utterances if u.spk in ("S0", "S1")}
    replace(sources, utterances=list(few.values())).write(tmp_path / "near")
    for values in ({}, {"conversation": "concatenated", "duration": 4}):
        mixed = configuration(source=["far", "near"], num_mixtures={2: 30, 3: 5}, write=False, **values)
        draw_sets({"one": replace(mixed, same_source=True), "any": mixed}, tmp_path)
        met = {}
        for name in ("one", "any"):
            lines = (tmp_path / name / "mixtures.jsonl").read_text().splitlines()
            met[name] = [{s["spk"].split("_")[0] for s in json.loads(line)["sources"]} for line in lines]
        assert all(len(places) == 1 for places in met["one"]) and any(len(places) == 2 for places in met["any"])
        assert {"near"} in met["one"][:30] and met["one"][30:] == [{"far"}] * 5, "near has two speakers"
    with pytest.raises(UserError, match=r"4 speakers for mixtures of 5 talkers \(set 'one', same_source\)"):
        draw_sets({"one": replace(mixed, same_source=True, num_mixtures={5: 1})}, tmp_path)
    with pytest.raises(UserError, match="same_source: 'yes'; true or false is expected"):
        configuration(same_source="yes")


def test_sources_are_what_the_directory_has(sources, tmp_path):
    """Columns give back every utterance; nothing but the columns grows with their number."""
    replace(sources, extra={"channel": {"rec00": "2"}}).write(tmp_path / "train")
    found = Sources.of(tmp_path / "train")
    assert found.names == ["S0", "S1", "S2", "S3"] and len(found) == 12 and found.source_of == [0] * 4
    assert of_directory(found) == [
        (u.utt, u.spk, u.text, sources.wav[u.rec], u.start, u.end, 2 if u.rec == "rec00" else None)
        for u in sources.utterances]
    assert [found.seconds(2), found.length(6)] == [[u.end - u.start for u in sources.utterances[6:9]],
                                                   found.seconds(2)[0]]
    found.add(sources.path, 1, "a_")
    assert found.names == ["S0", "S1", "S2", "S3", "a_S0", "a_S1", "a_S2", "a_S3"] and found.source_of[4] == 1
    with pytest.raises(UserError, match="the speaker 'a_S0' is in another source, too"):
        found.add(sources.path, 2, "a_")


def of_directory(found):
    drawn_ones = [found.source(k, i, 0.0, None) for k, part in enumerate(found.of_speaker) for i in part]
    return [(s.utt, s.spk, s.text, s.wav, s.start, s.end, s.channel) for s in drawn_ones]


def test_sources_of_files_in_any_order(sources, tmp_path):
    """Speakers that do not stand together, and files that are not sorted, give the same sources."""
    utterances = [u._replace(spk=f"S{i % 2}") for i, u in enumerate(sources.utterances)]
    replace(sources, utterances=utterances).write(tmp_path / "train")
    expected = of_directory(Sources.of(tmp_path / "train"))
    assert [(e[0], e[1]) for e in expected] == sorted(((u.utt, u.spk) for u in utterances), key=lambda e: (e[1], e[0]))
    for name in ("segments", "text", "utt2spk", "wav.scp"):
        lines = (tmp_path / "train" / name).read_text().splitlines(keepends=True)
        (tmp_path / "train" / name).write_text("".join(reversed(lines)))
    assert of_directory(Sources.of(tmp_path / "train")) == expected


def test_whole_recordings_as_sources(sources, tmp_path):
    """Without ``segments`` an utterance is a recording; ``reco2dur``, else the header, says how long it is."""
    write_map(tmp_path / "train/wav.scp", sources.wav)
    write_map(tmp_path / "train/utt2spk", {rec: "S" for rec in sources.wav})
    for _ in range(2):
        found = Sources.of(tmp_path / "train")
        assert found.seconds(0) == pytest.approx([sources.reco2dur[rec] for rec in sources.wav])
        write_map(tmp_path / "train/reco2dur", {rec: f"{sources.reco2dur[rec]}" for rec in sources.wav})
    write_map(tmp_path / "train/reco2dur", {rec: "long" for rec in sources.wav})
    with pytest.raises(UserError, match="reco2dur: 'long' is not a number"):
        Sources.of(tmp_path / "train")
    write_map(tmp_path / "train/wav.scp", {rec: "" for rec in sources.wav})
    with pytest.raises(UserError, match="wav.scp:1: 'rec00' has no audio; repair: utils/fix_data_dir.sh"):
        Sources.of(tmp_path / "train")


def test_data_directories(sources, tmp_path, noise_scp):
    configs = {"a_mix": configuration(source=str(sources.path), noise_scp=noise_scp),
               "b_mix": configuration(source=str(sources.path), write=False)}
    assert draw_sets(configs, tmp_path) == {"a_mix": 16, "b_mix": 16}
    data = DataDir.read(tmp_path / "a_mix")
    manifest = {m.id: m for m in draw_mixtures(Sources.of(sources.path), configs["a_mix"], "a_mix")}
    assert data.wav.keys() == manifest.keys() == data.extra["utt2num_spk"].keys() == data.extra["noise1.scp"].keys()
    assert len(data.extra["spk3.scp"]) == 6 and len(data.extra["spk2.scp"]) == 12
    for u in data.utterances:
        source = next(s for s in manifest[u.rec].sources if s.spk == u.spk)
        assert (u.start, u.text) == (source.offset, source.text)
        assert abs(u.end - u.start - (source.end - source.start)) < 1e-6 and u.end <= data.reco2dur[u.rec] + 1e-6
    before = {f.name: f.read_bytes() for f in (tmp_path / "a_mix").iterdir()}
    draw_sets(configs, tmp_path, ["a_mix"])
    assert {f.name: f.read_bytes() for f in (tmp_path / "a_mix").iterdir()} == before


def test_audio_of_another_manifest_is_not_kept(sources, tmp_path):
    config = configuration(source=str(sources.path), num_mixtures={1: 1, 3: 1})
    draw_sets({"mix": config}, tmp_path)
    audio = tmp_path / "mix" / "audio" / "wav" / "x.flac"
    audio.parent.mkdir(parents=True)
    audio.touch()
    draw_sets({"mix": config}, tmp_path)
    assert audio.exists()
    draw_sets({"mix": replace(config, seed=5, num_mixtures={2: 1})}, tmp_path)
    assert not audio.exists() and not (tmp_path / "mix" / "spk3.scp").exists()
    assert len(read_map(tmp_path / "mix" / "spk2.scp")) == 1


def test_recorded_data_is_not_overwritten(sources, tmp_path):
    sources.write(tmp_path / "train")
    with pytest.raises(UserError, match="was not simulated; it is not overwritten"):
        draw_sets({"train": configuration()}, tmp_path)
    with pytest.raises(UserError, match="no set 'other'"):
        draw_sets({"train": configuration()}, tmp_path, ["other"])
    with pytest.raises(UserError, match="no such data directory"):
        draw_sets({"mix": configuration(source="absent")}, tmp_path)


def test_sets_whose_sources_are_not_there_are_left_out(sources, tmp_path, caplog):
    there = configuration(source=str(sources.path), num_mixtures={2: 2})
    talk = configuration(source=str(sources.path), conversation="statistics", statistics="eval_far")
    configs = {"absent": configuration(source="train_near"), "talk": talk, "there": there}
    assert draw_sets(configs, tmp_path) == {"there": 2}
    assert [m.partition(": ")[0] for m in caplog.messages] == ["absent is not drawn", "talk is not drawn"]
    assert "train_near: no such data directory" in caplog.messages[0] and "eval_far: no such" in caplog.messages[1]
    with pytest.raises(UserError, match="train_near: no such data directory"):
        draw_sets(configs, tmp_path, ["absent"])
    with pytest.raises(UserError, match="train_near: no such .*, or go on without simulation: ./run.sh --simulate_conf"):
        draw_sets({"absent": configs["absent"]}, tmp_path)


@pytest.mark.parametrize("nj", [1, 2])
def test_recordings_that_cannot_be_read_are_in_no_mixture(sources, tmp_path, nj):
    shutil.copytree(sources.path, tmp_path / "train")
    wav = {rec: path.replace(str(sources.path), str(tmp_path / "train")) for rec, path in sources.wav.items()}
    write_map(tmp_path / "train" / "wav.scp", wav)
    config = configuration(level=-26, num_mixtures={2: 40})
    draw_sets({"set": config}, tmp_path, nj=nj)
    before = list(Manifest(tmp_path / "set" / "mixtures.jsonl").values())
    content = Path(wav["rec00"]).read_bytes()
    Path(wav["rec00"]).write_bytes(content[:9000] + bytes(9000) + content[18000:])
    with pytest.raises(UserError, match="1 of 12 sessions has problems, see .*problems.tsv; everything else"):
        draw_sets({"set": config}, tmp_path, nj=nj)
    after = list(Manifest(tmp_path / "set" / "mixtures.jsonl").values())
    hit = [wav["rec00"] in {s.wav for s in m.sources} for m in before]
    assert any(hit) and not any(wav["rec00"] in {s.wav for s in m.sources} for m in after)
    assert [a for a, h in zip(after, hit) if not h] == [b for b, h in zip(before, hit) if not h], "others are the same"
    assert f"set\t{wav['rec00']}\t{wav['rec00']}: " in (tmp_path / "problems.tsv").read_text()
    assert draw_sets({"set": config}, tmp_path, nj=nj, allow_problems=True) == {"set": 40}
    assert list(Manifest(tmp_path / "set" / "mixtures.jsonl").values()) == after
    Path(wav["rec00"]).write_bytes(content)
    draw_sets({"set": config}, tmp_path, nj=nj)
    assert list(Manifest(tmp_path / "set" / "mixtures.jsonl").values()) == before
    assert not (tmp_path / "problems.tsv").exists()


def test_where_nothing_can_be_read(sources, tmp_path):
    shutil.copytree(sources.path, tmp_path / "train")
    write_map(tmp_path / "train" / "wav.scp", {rec: str(tmp_path / f"{rec}.flac") for rec in sources.wav})
    with pytest.raises(UserError, match="set-2spk-000000: in 100 draws a recording could not be read each time"):
        draw_sets({"set": configuration(level=-26, num_mixtures={2: 2})}, tmp_path)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20), st.sampled_from("ab")), max_size=12))
def test_what_was_spoken_alone(spans):
    expected = [not any(k != i and rec == other_rec and other < start + length and start < other + long
                        for k, (other, long, other_rec) in enumerate(spans))
                for i, (start, length, rec) in enumerate(spans)]
    starts, lengths = (np.array([span[k] for span in spans], float) for k in range(2))
    recs = np.array(["ab".index(rec) for *_, rec in spans])
    assert spoken_alone(recs, starts, starts + lengths).tolist() == expected


def test_only_what_was_spoken_alone_is_mixed(sources, tmp_path):
    rec = sources.utterances[0].rec
    whole = sources.utterances[0]._replace(utt=f"S0-{rec}-over", spk="S9", start=0.0, end=1.2)
    replace(sources, utterances=[*sources.utterances, whole]).write(tmp_path / "train")
    configs = {"mix": configuration(num_mixtures={1: 40}, alone=True, write=False)}
    draw_sets(configs, tmp_path)
    used = {line.split()[0].split("-")[0] for line in (tmp_path / "mix/utt2spk").read_text().splitlines()}
    assert used == {"S0", "S1", "S2", "S3"}, "the one who talked over another is no source"
    lines = (tmp_path / "mix/mixtures.jsonl").read_text().splitlines()
    assert not any(f"/{rec}.flac" in source["wav"] for line in lines for source in json.loads(line)["sources"])


def test_lists_of_recordings_lie_beside_the_sources(sources, tmp_path, noise_scp):
    sources.write(tmp_path / "train")
    configs = {"mix": configuration(num_mixtures={2: 2, 9: 0}, noise_scp="noise/noise.scp", write=False)}
    with pytest.raises(UserError, match="no such list .* unpack noise.tar.gz of OpenSLR 159 .* take noise_scp out"):
        draw_sets(configs, tmp_path)
    other = {"mix": replace(configs["mix"], noise_scp=None, rir_scp="mine.scp")}
    with pytest.raises(UserError, match="no such list .*; make it: .*list_audio --root .*, or take rir_scp out"):
        draw_sets(other, tmp_path)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/noise.scp").write_bytes(open(noise_scp, "rb").read())
    assert draw_sets(configs, tmp_path) == {"mix": 2}
    assert '"noise":{' in (tmp_path / "mix/mixtures.jsonl").read_text()
