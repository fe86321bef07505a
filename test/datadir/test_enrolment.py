"""Enrolment: stretches hold one speaker, nothing of a clip is enrolled, distractors come from elsewhere."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.corpora.alimeeting import find_recordings, read_far, read_near
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.clip_policies import Rules, utterance_group
from espnet_mt_llm.datadir.clips import Clip, make_clips, supervision
from espnet_mt_llm.datadir.enrolment import (Heard, make_enrolment, read_registration, register,
                                             write_source_dirs)
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.datadir.stretches import MARGIN, PAUSE, Pool, common_runs, divide_run, solo_runs
from espnet_mt_llm.datadir.textgrid import read_textgrid
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.draw import draw_sets

UTTERANCES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60000), st.integers(0, 3000)), max_size=40)


def segment(rec, spk, start, end, words="x"):
    return {"session_id": rec, "speaker": spk, "start_time": start, "end_time": end, "words": words}


def files(path):
    return {f.name: f.read_bytes() for f in path.iterdir() if f.is_file()}


def write_clips(data, dump, max_clip=50.0):
    """Write the supervision of a data dir's clips, without audio."""
    lines = {}
    for rec, duration in data.reco2dur.items():
        utterances = [u for u in data.utterances if u.rec == rec]
        for cut in utterance_group(utterances, duration, Rules(max_clip)):
            name = f"{rec}-{round(cut.start * 100):07d}-{round(cut.end * 100):07d}"
            lines[name] = supervision(Clip(name, rec, cut.start, cut.end, cut.utterances))
    write_map(dump / "supervision", lines)


@pytest.fixture
def meetings(tmp_path):
    """Three sessions of two speakers who take turns; 'x' is in the first and the third."""
    segments = []
    for rec, spks in (("M1", "xy"), ("M2", "vw"), ("M3", "xz")):
        segments += [segment(rec, spks[k % 2], 10.0 * k, 10.0 * k + 8) for k in range(12)]
    data = DataDir.from_seglst(segments, {r: f"{tmp_path}/{r}.wav" for r in ("M1", "M2", "M3")},
                               {r: 120.0 for r in ("M1", "M2", "M3")}).write(tmp_path / "data")
    write_clips(data, tmp_path / "dump", 30.0)
    return tmp_path


@given(UTTERANCES)
def test_alone_is_alone(rows):
    utterances = [(spk, start / 100, (start + n) / 100) for spk, start, n in rows]
    runs = list(solo_runs(utterances))
    assert all(a[2] <= b[1] for a, b in pairwise(runs))
    for spk, start, end in runs:
        own = sorted((max(a, start), min(b, end)) for s, a, b in utterances if s == spk and a < end and b > start)
        assert own[0][0] == start and max(b for _, b in own) == end
        reach = start
        for a, b in own:
            assert a - reach <= PAUSE + 1e-9
            reach = max(reach, b)
        assert not any(s != spk and max(a, start) < min(b, end) for s, a, b in utterances)


@given(UTTERANCES)
def test_no_run_is_lost(rows):
    """On a grid of centiseconds: where exactly one talks, and only there and in short pauses, there is a run."""
    utterances = [(spk, start, start + n) for spk, start, n in rows]
    cells = {}
    for spk, start, end in utterances:
        for t in range(start, end):
            cells.setdefault(t, set()).add(spk)
    found = {t: spk for spk, a, b in solo_runs([(s, a / 100, b / 100) for s, a, b in utterances])
             for t in range(round(a * 100), round(b * 100))}
    assert {t: next(iter(s)) for t, s in cells.items() if len(s) == 1}.items() <= found.items()
    assert all(t not in cells or len(cells[t]) == 1 for t in found)


@given(st.floats(0, 1e4), st.floats(0, 100), st.integers(10, 300), st.integers(300, 3000))
def test_a_run_is_divided_evenly(start, seconds, low, high):
    parts = divide_run(start, start + seconds, low, high)
    assert all(low <= b - a <= high for a, b in parts)
    assert all(start * 100 - 1e-3 <= a and b <= (start + seconds) * 100 + 1e-3 for a, b in parts)
    if 2 * low <= high and low + 1.001 <= seconds * 100:
        assert parts and parts[-1][1] - parts[0][0] >= seconds * 100 - 2.001, "nothing is thrown away"


def test_real_meetings(real_data, tmp_path):
    """AliMeeting: stretches lie in one speaker's utterances, clear of all others and of every clip they serve."""
    segments = []
    for path in sorted((real_data / "alimeeting" / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid")):
        segments += [{**s, "speaker": s["speaker"][-7:]} for s in read_textgrid(path)]
    recs = sorted({s["session_id"] for s in segments})
    durations = {r: max(s["end_time"] for s in segments if s["session_id"] == r) for r in recs}
    data = DataDir.from_seglst(segments, {r: f"/corpus/{r}.wav" for r in recs}, durations)
    data.extra["channel"] = {r: "1" for r in recs}
    data = data.write(tmp_path / "data")
    write_clips(data, tmp_path / "dump")
    with pytest.raises(UserError, match="no such file; make the clips first"):
        make_enrolment(tmp_path / "data", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    found = make_enrolment(tmp_path / "data", tmp_path / "dump")
    assert len(found.seconds) == 15 and found.stretches > 800
    assert found.complete == found.clips == len(read_map(tmp_path / "dump" / "supervision")) > 150
    assert found.fewest_distractors == 11, "all speakers of the other three meetings, however many are asked for"
    pool = {k: json.loads(v) for k, v in read_map(tmp_path / "dump" / "enrolment").items()}
    for name, s in pool.items():
        assert name == f"{s['spk']}-{s['rec']}-{round(s['start'] * 100):07d}-{round(s['end'] * 100):07d}"
        assert 2 <= s["end"] - s["start"] <= 10 + 1e-9 and (s["wav"], s["channel"]) == (f"/corpus/{s['rec']}.wav", 1)
        at_once = {u.spk for u in data.utterances if u.rec == s["rec"] and u.start < s["end"] and u.end > s["start"]}
        assert at_once == {s["spk"]}
    in_session = {r: {u.spk for u in data.utterances if u.rec == r} for r in recs}
    for clip, registration in read_registration(tmp_path / "dump").items():
        rec, start, end = clip.rsplit("-", 2)
        for spk, names in registration.speakers.items():
            assert 1 <= len(names) <= 3
            for s in map(pool.get, names):
                far = s["end"] <= int(start) / 100 - MARGIN + 1e-6 or s["start"] >= int(end) / 100 + MARGIN - 1e-6
                assert s["spk"] == spk and (s["rec"] != rec or far)
        assert not in_session[rec] & set(registration.distractors)
        assert len(set(registration.distractors)) == 15 - len(in_session[rec])
    assert set(read_map(tmp_path / "dump" / "spk2enrolment")) == {u.spk for u in data.utterances}


@pytest.fixture(scope="session")
def eval_ali(real_data, tmp_path_factory):
    """The four real Eval meetings as far and near data dirs, and their clips; the audio is never read."""
    out = tmp_path_factory.mktemp("eval_ali")
    for field, read in (("far", partial(read_far, channel=1)), ("near", read_near)):
        recordings = find_recordings(real_data / "alimeeting" / f"Eval_Ali_{field}", field)
        sessions = [s for r in recordings for s in read(replace(r, audio=(f"/corpus/{r.id}.wav",)), profile="zh_char")]
        segments = [s for session in sessions for s in session.segments]
        ends = {s.id: max(u["end_time"] for u in s.segments) for s in sessions}
        data = DataDir.from_seglst(segments, {s.id: s.audio for s in sessions}, ends)
        for name in {name for session in sessions for name in session.extra}:
            data.extra[name] = {session.id: session.extra[name] for session in sessions}
        write_clips(data.write(out / "data" / field), out / "dump" / field)
    return out


@pytest.mark.parametrize("clips, source, mapped", [("far", "near", True), ("near", None, True), ("near", "far", True),
                                                    ("far", "near", False), ("near", "far", False)])
def test_real_headsets_are_one_meeting(eval_ali, tmp_path, clips, source, mapped):
    """Nobody of the whole meeting talks in a stretch, no stretch touches its clip's time, no distractor is there."""
    shutil.copytree(eval_ali / "data", tmp_path / "data")
    shutil.copytree(eval_ali / "dump" / clips, tmp_path / "dump")
    if not mapped:
        (tmp_path / "data" / "near" / "reco2session").unlink()
    source_dirs = [tmp_path / "data" / source] if source else []
    found = make_enrolment(tmp_path / "data" / clips, tmp_path / "dump", source_dirs=source_dirs)
    assert len(found.seconds) == 15 and found.stretches > 800 and found.clips > 150
    assert found.fewest_distractors == 11 and found.complete > 0.98 * found.clips

    talk = {}
    for u in DataDir.read(eval_ali / "data" / "far").utterances:
        talk.setdefault(u.rec, []).append(u)
    pool = {k: json.loads(v) for k, v in read_map(tmp_path / "dump" / "enrolment").items()}
    for s in pool.values():
        assert {u.spk for u in talk[s["rec"][:11]] if u.start < s["end"] and u.end > s["start"]} == {s["spk"]}
        assert s.get("session", s["rec"]) == s["rec"][:11] and s["wav"] == f"/corpus/{s['rec']}.wav"
    for clip, registration in read_registration(tmp_path / "dump").items():
        rec, start, end = clip.rsplit("-", 2)
        assert not {u.spk for u in talk[rec[:11]]} & set(registration.distractors)
        for spk, names in registration.speakers.items():
            for s in map(pool.get, names):
                far = s["end"] <= int(start) / 100 - MARGIN + 1e-6 or s["start"] >= int(end) / 100 + MARGIN - 1e-6
                assert s["spk"] == spk and (s["rec"][:11] != rec[:11] or far)


def test_the_far_field_knows_who_has_no_headset(meetings):
    """'y' was not recorded; the far transcript says when his voice is in the headset of 'x'."""
    near = [segment("M1_N_x", "x", 0, 6), segment("M1_N_x", "x", 8, 14), segment("M1_N_x", "x", 20, 26)]
    data = DataDir.from_seglst(near, {"M1_N_x": "/near/x.wav"}, {"M1_N_x": 120.0})
    data.extra["reco2session"] = {"M1_N_x": "M1"}
    data.write(meetings / "near")
    make_enrolment(meetings / "data", meetings / "dump", source_dirs=[meetings / "near"])
    assert [line.split()[0] for line in (meetings / "dump" / "enrolment").read_text().splitlines()] == [
        "x-M1_N_x-0000000-0000600", "x-M1_N_x-0000800-0001000", "x-M1_N_x-0002000-0002600"]


@given(UTTERANCES, UTTERANCES)
def test_common_runs(first, second):
    runs = [list(solo_runs([(spk, start, start + n) for spk, start, n in rows])) for rows in (first, second)]
    cells = [{t: spk for spk, a, b in found for t in range(a, b)} for found in runs]
    common = list(common_runs(*runs))
    assert all(a < b for _, a, b in common)
    assert {(t, spk) for spk, a, b in common for t in range(a, b)} == cells[0].items() & cells[1].items()


def test_the_same_bytes_each_time_and_others_with_another_seed(meetings):
    make_enrolment(meetings / "data", meetings / "dump")
    before = files(meetings / "dump")
    make_enrolment(meetings / "data", meetings / "dump")
    assert files(meetings / "dump") == before
    make_enrolment(meetings / "data", meetings / "dump", seed=1)
    after = files(meetings / "dump")
    assert after["registration"] != before["registration"] and after["enrolment"] == before["enrolment"]
    make_enrolment(meetings / "data", meetings / "dump", num_distractors=1)
    fewer = read_registration(meetings / "dump")
    make_enrolment(meetings / "data", meetings / "dump")
    for clip, registration in read_registration(meetings / "dump").items():
        assert fewer[clip].distractors == registration.distractors[:1], "more distractors keep the first ones"


def test_training_draws_by_the_same_rule(meetings):
    make_enrolment(meetings / "data", meetings / "dump")
    fixed = read_registration(meetings / "dump")["M1-0000000-0002825"]
    pool = Pool.read(meetings / "dump" / "enrolment")
    heard = Heard("M1-0000000-0002825", ["x", "y"], ["x", "y"], [("M1", 0.0, 28.25)])
    assert register(pool, heard, 3, 100, Chance(0, heard.clip)) == fixed
    drawn = {spk for k in range(300) for names in register(pool, heard, 3, 9, Chance(k, "step")).speakers.values()
             for spk in names}
    outside = {pool.stretch(spk, n).id for spk in "xy" for n in pool.outside(spk, heard.spans)}
    assert drawn == outside and "x-M1-0002000-0002800" not in outside and "x-M3-0000000-0000800" in outside
    make_enrolment(meetings / "data", meetings / "dump", registration=False)
    assert set(files(meetings / "dump")) == {"supervision", "enrolment"}, "no stale choice stays"


def test_pool_reads_back(meetings):
    make_enrolment(meetings / "data", meetings / "dump")
    path = meetings / "dump" / "enrolment"
    before = path.read_bytes()
    Pool.read(path).write(path)
    assert path.read_bytes() == before
    assert list(read_map(path)) == sorted(read_map(path))


def test_who_talks_in_the_clip_alone_is_not_registered(tmp_path, run):
    segments = [segment("M1", "a", 0, 8), segment("M1", "b", 10, 18), segment("M1", "a", 60, 68)]
    data = DataDir.from_seglst(segments, {"M1": "m.wav"}, {"M1": 70.0}).write(tmp_path / "data")
    write_clips(data, tmp_path / "dump")
    ran = run("make_enrolment", "--data_dir", tmp_path / "data", "--dump_dir", tmp_path / "dump")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "2 speakers, 2 of them with a stretch", "3 stretches, 0.01 hours",
        "seconds per speaker: 8.0 to 16.0, median 16.0",
        "1 of 2 clips (50.0 %) with all speakers registered", "0 distractors for each clip, or more"]
    found = read_registration(tmp_path / "dump")
    assert found["M1-0000000-0001825"].speakers == {"a": ["a-M1-0006000-0006800"], "b": []}
    assert found["M1-0005975-0006825"].speakers == {"a": ["a-M1-0000000-0000800"]}


def test_headsets_share_the_time_of_their_session(meetings):
    """Enrolled from the near field, the clip's own words are not among them either."""
    near = [segment(f"{rec}_N_{spk}", spk, 10.0 * k, 10.0 * k + 8)
            for rec, spks in (("M1", "xy"), ("M2", "vw"), ("M3", "xz")) for k, spk in enumerate(spks * 6)]
    near.append(segment("T9", "stranger", 0, 9))
    recs = {s["session_id"] for s in near}
    DataDir.from_seglst(near, {r: f"/near/{r}.wav" for r in recs}, {r: 120.0 for r in recs}).write(meetings / "near")
    make_enrolment(meetings / "data", meetings / "dump", source_dirs=[meetings / "near"])
    pool = {k: json.loads(v) for k, v in read_map(meetings / "dump" / "enrolment").items()}
    assert {s["spk"] for s in pool.values()} == set("vwxyz"), "speakers of the set alone"
    assert "x-M1_N_x-0002000-0002800" in pool
    chosen = {name for k in range(20) for name in read_again(meetings, k)["M1-0000000-0002825"].speakers["x"]}
    assert {pool[name]["rec"] for name in chosen} == {"M1_N_x", "M3_N_x"}
    assert all(pool[name]["rec"] != "M1_N_x" or pool[name]["start"] >= 28.25 + MARGIN for name in chosen)


def test_nobody_talks_alone(meetings, caplog):
    """No mistake of anybody's: the lists are empty, and say so."""
    found = make_enrolment(meetings / "data", meetings / "dump", shortest=9)
    assert (found.stretches, found.complete, found.clips) == (0, 0, 12) and "try a smaller --min" in caplog.text
    assert read_registration(meetings / "dump")["M1-0000000-0002825"].speakers == {"x": [], "y": []}
    assert len(Pool.read(meetings / "dump" / "enrolment")) == 0


def test_clips_of_single_utterances(tmp_path):
    """Such clips may have their speaker in the id; what is heard of them goes by the times alone."""
    write_audio(tmp_path / "M1.wav", np.ones(16000 * 30, dtype=np.int16), 16000)
    segments = [segment("M1", spk, start, start + 5) for spk, start in (("a", 0), ("b", 0), ("a", 10), ("b", 20))]
    DataDir.from_seglst(segments, {"M1": str(tmp_path / "M1.wav")}).write(tmp_path / "data")
    make_clips(tmp_path / "data", tmp_path / "dump", policy="oracle_segments")
    make_enrolment(tmp_path / "data", tmp_path / "dump")
    assert {clip: r.speakers for clip, r in read_registration(tmp_path / "dump").items()} == {
        "M1-0000000-0000500": {"a": ["a-M1-0001000-0001500"]}, "M1-0000000-0000500-b": {"b": ["b-M1-0002000-0002500"]},
        "M1-0001000-0001500": {"a": []}, "M1-0002000-0002500": {"b": []}}


def read_again(meetings, seed):
    make_enrolment(meetings / "data", meetings / "dump", source_dirs=[meetings / "near"], seed=seed)
    return read_registration(meetings / "dump")


@pytest.mark.parametrize("line, message", [
    ('c1 {"speakers": [], "distractors": []}', "not a registration"),
    ('c1 {"speakers": {"a": null}, "distractors": []}', "not a registration"),
    ('c1 {"speakers": {"a": ["x"]}, "distractors": null}', "not a registration"),
    ('c0 {"speakers": {"a": ["x"]}, "distractors": []}', "the clip 'c0' stands there twice"),
])
def test_a_broken_registration_is_told_with_its_line(tmp_path, line, message):
    (tmp_path / "registration").write_text('c0 {"speakers": {"a": ["x"]}, "distractors": ["b"]}\n' + line + "\n")
    with pytest.raises(UserError, match=f"registration:2: {message}; make it again"):
        read_registration(tmp_path)


def source(utt, spk, wav, start=0.0, end=6.0):
    return {"utt": utt, "spk": spk, "text": "x", "wav": wav, "start": start, "end": end, "offset": 0.0, "gain": 1.0}


@pytest.fixture
def mixtures(tmp_path):
    """One mixture of 'a' and 'b'; its source dir has a whole recording of each more, and a long one of 'b'."""
    utts = {"a-1": 6.0, "a-2": 5.0, "b-1": 6.0}
    segments = [segment(rec, rec[0], 0.0, n) for rec, n in utts.items()]
    segments += [segment("long", "b", 20.0 * k, 20.0 * k + 9) for k in range(3)] + [segment("c-1", "c", 0, 8)]
    wav = {**{r: f"/src/{r}.flac" for r in utts}, "long": "/src/long.flac", "c-1": "/src/c-1.flac"}
    DataDir.from_seglst(segments, wav, {**utts, "long": 60.0, "c-1": 8.0}).write(tmp_path / "source")
    mixed = [source("a-1", "a", "/src/a-1.flac"), source("b-9", "b", "/src/long.flac", 20.0, 29.0)]
    data = DataDir.from_seglst([segment("mix1", s["spk"], 0.0, 6.0) for s in mixed], {"mix1": "mix |"}, {"mix1": 9.0})
    line = {"id": "mix1", "rate": 16000, "num_samples": 144000, "sources": mixed}
    data.extra["mixtures.jsonl"] = {"mix1": json.dumps(line)}
    data.write(tmp_path / "data")
    write_map(tmp_path / "dump" / "supervision", {"mix1": '[{"spk":"a"},{"spk":"b"}]'})
    return tmp_path


def test_mixtures_enrol_from_other_utterances_of_their_speakers(mixtures):
    make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source"])
    registration = read_registration(mixtures / "dump")["mix1"]
    assert registration.speakers["a"] == ["a-a-2-0000000-0000500"]
    assert sorted(registration.speakers["b"]) == ["b-b-1-0000000-0000600", "b-long-0000000-0000900",
                                                  "b-long-0004000-0004900"]
    assert registration.distractors == [], "'c' is in the source dir but not in this set"


def test_mixtures_know_their_sources(mixtures, run):
    make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source"])
    before = files(mixtures / "dump")
    write_source_dirs(mixtures / "data", ["source"])
    for name in ("enrolment", "registration"):
        (mixtures / "dump" / name).unlink()
    ran = run("make_enrolment", "--data_dir", mixtures / "data", "--dump_dir", mixtures / "dump")
    assert ran.returncode == 0, ran.stderr
    assert files(mixtures / "dump") == before


@pytest.mark.parametrize("source", ["near", ["near", "more"]])
def test_a_simulated_set_enrols_without_an_option(tmp_path, source):
    """Drawn from people who talk at once: what is enrolled is said alone, and not in the mixture."""
    write_audio(tmp_path / "M1.wav", np.full(16000 * 60, 1000, dtype=np.int16), 16000)
    near = [segment(f"M1_{spk}", spk, 10.0 * k + late, 10.0 * k + 6)
            for k in range(6) for spk, late in (("a", 0), ("b", 3))]
    for name in ("near", "more"):
        data = DataDir.from_seglst(near, {f"M1_{spk}": str(tmp_path / "M1.wav") for spk in "ab"})
        data.extra["reco2session"] = {"M1_a": "M1", "M1_b": "M1"}
        data.write(tmp_path / "data" / name)
    where = {"source": source, "num_mixtures": {2: 12}, "write": False}
    draw_sets({"sim": SimulationConfig.parse(where, "test")}, tmp_path / "data")
    assert (tmp_path / "data" / "sim" / "source_dirs").read_text().split() == ([source] if source == "near" else source)
    make_clips(tmp_path / "data" / "sim", tmp_path / "dump", policy="whole")
    found = make_enrolment(tmp_path / "data" / "sim", tmp_path / "dump")
    assert found.clips == 12 and found.stretches
    pool = {k: json.loads(v) for k, v in read_map(tmp_path / "dump" / "enrolment").items()}
    assert {(s["start"] % 10, s["end"] % 10) for s in pool.values()} == {(0, 3)}, "'b' never talks alone"
    mixtures = map(json.loads, (tmp_path / "data" / "sim" / "mixtures.jsonl").read_text().splitlines())
    heard = {m["id"]: [(s["start"], s["end"]) for s in m["sources"]] for m in mixtures}
    for clip, registration in read_registration(tmp_path / "dump").items():
        for spk, names in registration.speakers.items():
            assert bool(names) == spk.endswith("a")
            assert not any(pool[name]["start"] < end and pool[name]["end"] > start for name in names
                           for start, end in heard[clip]), "both dirs have the same files"


def test_mixtures_and_their_sources_have_to_fit(mixtures):
    with pytest.raises(UserError, match="data: mixtures enrol from the data dirs of their sources, and no source_dirs "
                                        "names them; name them: --source_dir data/…, or make the set again"):
        make_enrolment(mixtures / "data", mixtures / "dump")
    write_source_dirs(mixtures / "data", ["source", "elsewhere"])
    with pytest.raises(UserError, match="data/source_dirs:2: no data dir .*/elsewhere to enrol from; prepare it .stage "
                                        "1., or name where the sources are: --source_dir"):
        make_enrolment(mixtures / "data", mixtures / "dump")
    (mixtures / "data" / "source_dirs").write_text("source\n\n")
    with pytest.raises(UserError, match="source_dirs:2: 0 columns, expected 1; name the data dirs: --source_dir"):
        make_enrolment(mixtures / "data", mixtures / "dump")
    wav = read_map(mixtures / "source" / "wav.scp")
    write_map(mixtures / "source" / "wav.scp", {**wav, "a-1": "/moved/a-1.flac"})
    make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source"])  # by the utterance's id
    write_map(mixtures / "source" / "wav.scp", {**wav, "long": "/moved/long.flac"})
    with pytest.raises(UserError, match="mixtures.jsonl:1: the source 'b-9' of 'mix1' is in no --source_dir; name all"):
        make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source"])
    (mixtures / "data" / "mixtures.jsonl").write_text('{"id":"mix1"}\n')
    with pytest.raises(UserError, match="mixtures.jsonl:1: not a mixture; make the manifest again"):
        make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source"])


def test_of_several_source_dirs_names_begin_with_theirs(mixtures):
    """As in the simulation of conversations from several data dirs."""
    data = DataDir.read(mixtures / "data")
    spk = {"a": "source_a", "b": "source_b"}
    segments = [{**s, "speaker": spk[s["speaker"]]} for s in data.seglst()]
    for old in (mixtures / "data").iterdir():
        old.unlink()
    pooled = DataDir.from_seglst(segments, data.wav, data.reco2dur)
    pooled.extra.update(data.extra)
    pooled.write(mixtures / "data")
    write_map(mixtures / "dump" / "supervision", {"mix1": '[{"spk":"source_a"},{"spk":"source_b"}]'})
    DataDir.from_seglst([segment("a-1", "a", 0, 9)], {"a-1": "/x.flac"}, {"a-1": 9.0}).write(mixtures / "more")
    make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source", mixtures / "more"])
    assert read_registration(mixtures / "dump")["mix1"].speakers["source_a"] == ["source_a-source_a-2-0000000-0000500"]
    with pytest.raises(UserError, match="source: two source dirs are called 'source'; rename one"):
        make_enrolment(mixtures / "data", mixtures / "dump", source_dirs=[mixtures / "source", mixtures / "source"])


@pytest.mark.parametrize("name, old, new, message", [
    ("data/segments", "M1 0.00 8.00", "M1 0.00 eight", r"segments:\d+: '0.00 eight' are not two times; repair: utils/"),
    ("data/segments", "M1 0.00 8.00", "M7 0.00 8.00", r"segments:\d+: 'M7' is not in wav.scp"),
    ("data/segments", "M1 0.00 8.00", "M1 0.00", r"segments:\d+: 3 columns, expected 4"),
    ("data/utt2spk", "x-M1-0000000-0000800 x\n", "", r"utt2spk:\d+: not the utterances of 'segments' in the same ord"),
    ("data/channel", "", "M1 left\n", r"channel: 'M1 left'; expected '<recording> <number from 1 on>'"),
    ("dump/supervision", "M2-0000000", "M9-0000000", r"supervision:\d+: the clip 'M9-0000000-\d+' is not of .*data"),
    ("dump/supervision", '"spk":"v"', '"who":"v"', r"supervision:\d+: not a list of segments with 'spk'"),
])
def test_what_does_not_fit_is_named_by_line(meetings, run, name, old, new, message):
    path = meetings / name
    text = path.read_text() if path.exists() else ""
    path.write_text(text.replace(old, new, 1) if old else new)
    before = files(meetings / "dump")
    with pytest.raises(UserError, match=message):
        make_enrolment(meetings / "data", meetings / "dump")
    assert "registration" not in files(meetings / "dump") and before.items() <= files(meetings / "dump").items()


def test_refusals(meetings, tmp_path, run):
    def refused(*options):
        ran = run("make_enrolment", *options)
        assert ran.returncode == 1 and "Traceback" not in ran.stderr
        return ran.stderr

    paths = ("--data_dir", meetings / "data", "--dump_dir", meetings / "dump")
    assert "stretches of 11 to 10 s: expected 0.1 <= min <= max" in refused(*paths, "--min", 11)
    assert "0 stretches, 100 distractors: expected at least 1 and 0" in refused(*paths, "--num_stretches", 0)
    DataDir.from_seglst([segment("T1", "stranger", 0, 9)], {"T1": "t.wav"}, {"T1": 9.0}).write(tmp_path / "other")
    said = refused(*paths, "--source_dir", tmp_path / "other")
    assert f"other: has no speaker of {meetings}/data; name a data dir" in said
    assert "nothing: no such data directory" in refused("--data_dir", tmp_path / "nothing", *paths[2:])
    assert "nothing: no such data directory" in refused(*paths, "--source_dir", tmp_path / "nothing")
    (meetings / "dump" / "supervision").unlink()
    assert "supervision: no such file; make the clips first (stage 3)" in refused(*paths)
    with pytest.raises(UserError, match="registration: no such file; make it"):
        read_registration(tmp_path)
    (tmp_path / "registration").write_text("clip {}\n")
    with pytest.raises(UserError, match="registration:1: not a registration"):
        read_registration(tmp_path)
    (tmp_path / "enrolment").write_text('a {"spk":"a"}\n')
    with pytest.raises(UserError, match="enrolment:1: not a stretch"):
        Pool.read(tmp_path / "enrolment")
