"""Clips: spans cut no utterance, references stay references, supervision is relative, jobs add up to the whole."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import info, read_audio, write_audio
from espnet_mt_llm.datadir.clip_policies import Rules, utterance_group, whole
from espnet_mt_llm.datadir.clips import make_clips, merge_clips
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance
from espnet_mt_llm.datadir.maps import key_of, read_map, write_map
from espnet_mt_llm.datadir.statistics import Statistics
from espnet_mt_llm.datadir.validate import validate

SPANS = st.lists(st.tuples(st.integers(0, 20000), st.integers(1, 1500)), min_size=1, max_size=30)


def cut(data_dir, out, **options):
    """Make clips and return them as ids and supervision say: recording, start, end, and segments."""
    made = make_clips(data_dir, out, **options)
    lengths, clips = read_map(out / "utt2dur"), []
    for clip, line in read_map(out / "supervision").items():
        rec, *times = re.fullmatch(r"(\w+?)(?:-(\d{7})-(\d{7})(?:-.*)?|-s\d)?", clip).groups()
        start = int(times[0] or 0) / 100
        end = round(start + float(lengths[clip]), 6)
        clips.append(SimpleNamespace(id=clip, rec=rec, start=start, end=end, utterances=json.loads(line)))
    assert made == Statistics.read(out / "statistics.json") and made.segments == len(clips)
    return clips


def files(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@given(SPANS, st.floats(5, 60))
def test_groups_cover_every_utterance_and_cut_none_that_fits(spans, max_clip):
    utterances = [Utterance(str(i), "r", "s", a / 100, (a + n) / 100, "") for i, (a, n) in enumerate(spans)]
    duration = max(u.end for u in utterances) + 0.005
    cuts = utterance_group(utterances, duration, Rules(max_clip))
    groups = [(cut.start, cut.end) for cut in cuts]
    assert {u.utt for cut in cuts for u in cut.utterances} == {u.utt for u in utterances}
    assert groups == sorted(groups) and groups[0][0] >= 0 and groups[-1][1] <= duration
    assert all(a[1] <= b[0] for a, b in zip(groups, groups[1:]))
    islands = []
    for u in sorted(utterances, key=lambda u: u.start):
        if islands and u.start < islands[-1][1]:
            islands[-1][1] = max(islands[-1][1], u.end)
        else:
            islands.append([u.start, u.end])
    for first, last in islands:
        if last - first <= max_clip:
            assert sum(start <= first and last <= end for start, end in groups) == 1
    for u in utterances:
        assert sum(p.end - p.start for cut in cuts for p in cut.utterances if p.utt == u.utt) == pytest.approx(
            u.end - u.start
        )


def test_a_cut_lies_in_the_middle_of_a_pause():
    utterances = [Utterance("a", "r", "s", 1.0, 3.0, ""), Utterance("b", "r", "s", 3.2, 5.0, "")]
    first, second = utterance_group(utterances, 10.0, Rules(3.0))
    assert (first.start, first.end) == (0.75, 3.1) and first.utterances == utterances[:1]
    assert (second.start, second.end) == (3.1, 5.25) and second.utterances == utterances[1:]
    (both,) = utterance_group(utterances, 10.0, Rules(5.0))
    assert (both.start, both.end) == (0.75, 5.25)
    (everything,) = whole(utterances, 10.0, Rules(10.0))
    assert (everything.start, everything.end, everything.utterances) == (0.0, 10.0, utterances)


def test_whole_recordings_are_referenced(data_dir, tmp_path):
    clips = cut(data_dir, tmp_path / "dump")
    assert [c.id for c in clips] == ["A", "B"]
    assert read_map(tmp_path / "dump" / "wav.scp") == read_map(data_dir / "wav.scp")
    assert not (tmp_path / "dump" / "audio").exists()
    assert read_map(tmp_path / "dump" / "utt2num_samples") == {"A": "80000", "B": "136000"}
    assert read_map(tmp_path / "dump" / "utt2dur") == {"A": "5.00", "B": "8.50"}
    assert read_map(tmp_path / "dump" / "utt2num_spk") == {"A": "2", "B": "2"}
    assert read_map(tmp_path / "dump" / "utt2spk") == read_map(tmp_path / "dump" / "spk2utt") == {"A": "A", "B": "B"}
    lines = read_map(tmp_path / "dump" / "supervision")
    assert (
        lines["A"]
        == '[{"spk":"s1","start":0.5,"end":3.333,"text":"one two"},{"spk":"s2","start":2.0,"end":4.0,"text":"three"}]'
    )
    assert [s["text"] for s in json.loads(lines["B"])] == ["四 五", "six", "seven"] and "四" in lines["B"]


def test_cut_clips_have_the_samples_of_their_span(data_dir, tmp_path):
    clips = cut(data_dir, tmp_path / "dump", policy="utterance_group", max_clip=6.0)
    assert [c.id for c in clips] == ["A-0000025-0000425", "B-0000075-0000625", "B-0000675-0000825"]
    wav, data = read_map(tmp_path / "dump" / "wav.scp"), DataDir.read(data_dir)
    for clip in clips:
        expected, _ = read_audio(data.wav[clip.rec], clip.start, clip.end)
        np.testing.assert_array_equal(read_audio(wav[clip.id])[0], expected)
    assert json.loads(read_map(tmp_path / "dump" / "supervision")["B-0000675-0000825"]) == [
        {"spk": "s1", "start": 0.25, "end": 1.25, "text": "seven"}
    ]


def test_twice_gives_the_same_bytes_and_writes_no_audio_again(data_dir, tmp_path):
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    before = files(tmp_path / "dump")
    audio = sorted((tmp_path / "dump" / "audio").iterdir())
    inodes = [f.stat().st_ino for f in audio]
    audio[1].write_bytes(audio[1].read_bytes()[:1000])
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    assert files(tmp_path / "dump") == before, "a half-written file is made again"
    assert audio[0].stat().st_ino == inodes[0], "a good one is kept"
    later = audio[0].stat().st_mtime + 10
    os.utime(data_dir.parent / "raw" / "A.wav", (later, later))
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    assert audio[0].stat().st_ino != inodes[0], "a new source makes a new clip"


def test_audio_that_was_unpacked_again_makes_new_clips(data_dir, tmp_path):
    source = data_dir.parent / "raw" / "A.wav"
    old = source.stat().st_mtime - 1e6
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    samples, rate = read_audio(source)
    write_audio(source, samples * 0.5, rate)
    os.utime(source, (old, old))  # as tar does
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    clip = next(path for path in sorted((tmp_path / "dump" / "audio").iterdir()) if path.name.startswith("A-"))
    start = int(clip.stem.split("-")[1]) / 100
    found = read_audio(clip)[0]
    np.testing.assert_array_equal(found, read_audio(source, start, start + len(found) / rate)[0])


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_audio_that_is_cut_otherwise_does_not_stay(data_dir, tmp_path, num_jobs):
    out = tmp_path / "dump"
    make_clips(data_dir, out, policy="oracle_segments")
    before = set((out / "audio").iterdir())
    for job in range(1, num_jobs + 1):
        make_clips(data_dir, out, policy="utterance_group", job=job, num_jobs=num_jobs)
    if num_jobs > 1:
        assert before <= set((out / "audio").iterdir()), "until all jobs have ended, the earlier clips are whole"
        merge_clips(out, num_jobs)
    assert {str(path) for path in (out / "audio").iterdir()} == set(read_map(out / "wav.scp").values())


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_maps_appear_when_the_disk_has_the_audio(data_dir, tmp_path, monkeypatch, num_jobs):
    options = dict(policy="oracle_segments", num_jobs=num_jobs)
    make_clips(data_dir, tmp_path / "whole", **options)
    expected = {name for name in files(tmp_path / "whole") if name.endswith(".wav")}
    flushes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushes.append("fsync") or fsync(handle))

    def lose_power(*directories):
        found = files(tmp_path / "dump")
        assert {name for name in found if name.endswith(".wav")} == expected
        assert not [name for name in found if name.endswith("wav.scp") and ".tmp." not in name]
        assert tmp_path / "dump" / "audio" in directories
        flushes.append("disk")
        raise OSError("lost")

    with monkeypatch.context() as patched:
        patched.setattr("espnet_mt_llm.datadir.clips.flush_disk", lose_power)
        with pytest.raises(OSError, match="lost"):
            make_clips(data_dir, tmp_path / "dump", **options)
    kept = {name for name in files(tmp_path / "dump") if key_of(Path(name).name) or ".tmp." in name}
    assert not kept, "neither a map nor a temporary file"
    assert flushes.count("disk") == 1 and len(flushes) <= 3, "once for all clips, and the sums and problems of the job"
    lost = tmp_path / "dump" / sorted(expected)[0]
    lost.write_bytes(b"")
    inodes = {name: (tmp_path / "dump" / name).stat().st_ino for name in sorted(expected)[1:]}
    make_clips(data_dir, tmp_path / "dump", **options)
    whole = {name: text.replace(b"/whole/", b"/dump/") for name, text in files(tmp_path / "whole").items()}
    assert files(tmp_path / "dump") == whole
    assert inodes == {name: (tmp_path / "dump" / name).stat().st_ino for name in inodes}, "what is good is kept"


def test_a_recording_that_is_too_long_stops_no_other(data_dir, tmp_path):
    with pytest.raises(UserError, match="1 of 2 sessions has problems"):
        make_clips(data_dir, tmp_path / "dump", policy="whole", max_clip=8.2)
    assert not (tmp_path / "dump" / "wav.scp").exists()
    made = make_clips(data_dir, tmp_path / "dump", policy="whole", max_clip=8.2, allow_problems=True)
    assert made.segments == 1 and list(read_map(tmp_path / "dump" / "wav.scp")) == ["A"]
    assert "the recording 'B' lasts 8.5 s, more than" in (tmp_path / "dump" / "problems.tsv").read_text()


def test_jobs_add_up(data_dir, tmp_path):
    make_clips(data_dir, tmp_path / "one", policy="utterance_group")
    for job in (1, 2):
        make_clips(data_dir, tmp_path / "two", policy="utterance_group", job=job, num_jobs=2)
        if job == 1:
            with pytest.raises(UserError, match="2of2: this job has not finished"):
                merge_clips(tmp_path / "two", 2)
            assert not (tmp_path / "two" / "wav.scp").exists(), "nothing half-made is used"
    merge_clips(tmp_path / "two", 2)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {k: v.replace(b"/one/", b"/two/") for k, v in one.items()} == two


def test_other_rates_are_resampled_and_do_not_clip(tmp_path, caplog):
    time = np.arange(16000) / 8000
    square = np.where(np.sin(2 * np.pi * 200 * time) >= 0, 32767, -32768).astype(np.int16)
    write_audio(tmp_path / "raw" / "r.wav", square, 8000)
    DataDir.from_seglst(
        [{"session_id": "r", "speaker": "s", "start_time": 0.0, "end_time": 2.0, "words": "x"}],
        {"r": str(tmp_path / "raw" / "r.wav")},
    ).write(tmp_path / "data")
    make_clips(tmp_path / "data", tmp_path / "dump")
    entry = read_map(tmp_path / "dump" / "wav.scp")["r"]
    assert entry == f"{tmp_path}/dump/audio/r.wav" and info(entry).rate == 16000 and info(entry).frames == 32000
    samples, _ = read_audio(entry)
    expected = resample_poly(square / 32768, 2, 1)
    peak = np.abs(expected).max()
    assert peak > 1.1, "the edges of a square overshoot"
    np.testing.assert_allclose(samples, expected / peak, atol=1.01 / 32768)
    assert f"r: scaled by {1 / peak:.4f}" in caplog.text


def test_sources_follow_their_mixture(tmp_path):
    rng = np.random.default_rng(0)
    one, two = (rng.normal(0, 3000, 16000).astype(np.int16) for _ in range(2))
    for name, samples in (("m", one + two), ("s1", one), ("s2", two)):
        write_audio(tmp_path / f"{name}.flac", samples, 8000)
    DataDir.from_seglst(
        [{"session_id": "m", "speaker": s, "start_time": 0.1, "end_time": 1.9, "words": s} for s in "ab"],
        {"m": str(tmp_path / "m.flac")},
    ).write(tmp_path / "data")
    for k in (1, 2):
        write_map(tmp_path / "data" / f"spk{k}.scp", {"m": str(tmp_path / f"s{k}.flac")})
    make_clips(tmp_path / "data", tmp_path / "same", rate=8000)
    assert read_map(tmp_path / "same" / "spk2.scp") == {"m": str(tmp_path / "s2.flac")}
    make_clips(tmp_path / "data", tmp_path / "cut", policy="utterance_group")
    read = {
        name: read_audio(*read_map(tmp_path / "cut" / name).values())[0] for name in ("wav.scp", "spk1.scp", "spk2.scp")
    }
    np.testing.assert_allclose(read["wav.scp"], read["spk1.scp"] + read["spk2.scp"], atol=2 / 32768)


def test_streamed_mixtures_are_not_rendered(data_dir, tmp_path):
    write_map(data_dir / "wav.scp", {rec: f"touch {tmp_path}/ran; false |" for rec in "AB"})
    (data_dir / "mixtures.jsonl").write_text(
        '{"id":"A","rate":16000,"num_samples":80000}\n{"id":"B","rate":16000,"num_samples":136000}\n'
    )
    make_clips(data_dir, tmp_path / "dump")
    assert not (tmp_path / "ran").exists()
    for job in (1, 2, 3):
        make_clips(data_dir, tmp_path / "dump", job=job, num_jobs=3)
    merge_clips(tmp_path / "dump", 3)  # a job without a recording is no trouble
    for name in ("wav.scp", "mixtures.jsonl"):
        assert (tmp_path / "dump" / name).read_bytes() == (data_dir / name).read_bytes()


def test_other_pipes_become_files(data_dir, tmp_path):
    wav = read_map(data_dir / "wav.scp")
    write_map(data_dir / "wav.scp", {rec: f"cat {entry} |" for rec, entry in wav.items()})
    make_clips(data_dir, tmp_path / "dump")
    np.testing.assert_array_equal(read_audio(tmp_path / "dump" / "audio" / "B.wav")[0], read_audio(wav["B"])[0])


def test_refusals_name_the_repair(data_dir, tmp_path, run, caplog):
    ran = run("make_clips", "--data_dir", data_dir, "--out_dir", tmp_path / "dump", "--max_clip", 6)
    assert (
        ran.returncode == 1
        and "the recording 'B' lasts 8.5 s, more than the 6 s of a clip; cut it: --policy utterance_group" in ran.stderr
        and "Traceback" not in ran.stderr
    )
    with pytest.raises(UserError, match="unknown policy 'hole'; did you mean 'whole'?"):
        make_clips(data_dir, tmp_path / "dump", policy="hole")
    with pytest.raises(UserError, match="job 3 of 2"):
        make_clips(data_dir, tmp_path / "dump", job=3, num_jobs=2)
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group", max_clip=2.0)
    assert "there is no point to cut at within 2 s" in caplog.text
    raw = (data_dir / "segments").read_text()
    (data_dir / "segments").write_text(raw.replace("A 2.00 4.00", "A 2.00 7.00"))
    with pytest.raises(UserError, match="1 of 2 sessions has problems"):
        make_clips(data_dir, tmp_path / "dump")
    assert "'s2-A-0000200-0000400' ends at 7 s but 'A' at 5 s; repair: utils/fix_data_dir.sh" in caplog.text
    (data_dir.parent / "raw" / "A.wav").unlink()
    with pytest.raises(UserError, match="1 of 2 sessions has problems"):
        make_clips(data_dir, tmp_path / "dump")
    assert "no such audio file" in (tmp_path / "dump" / "problems.tsv").read_text()


def damage(path, seconds=8.5):
    """Write a FLAC whose header and end are good, and whose middle is lost; return the whole file's bytes."""
    write_audio(path, np.random.default_rng(8).normal(0, 2000, round(seconds * 16000)).astype(np.int16), 16000)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes(2000) + good[middle + 2000 :])
    return good


def test_a_damaged_recording_stops_no_other(data_dir, tmp_path, run):
    bad, out = data_dir.parent / "raw" / "B.flac", tmp_path / "dump"
    good = damage(bad)
    options = ("--data_dir", data_dir, "--out_dir", out, "--policy", "oracle_segments")
    ran = run("make_clips", *options)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        f"1 of 2 sessions has problems, see {out}/problems.tsv; everything else was prepared; repair them and run "
        "again, or go on without them: ./run.sh --allow_problems true"
    )
    listed = f"set\tsession\tproblem\ndata\tB\t{bad}: is truncated or damaged: it holds less than its header says; "
    assert (out / "problems.tsv").read_text().startswith(listed)
    kept = sorted(f.name for f in (out / "audio").iterdir())
    assert kept == ["A-0000050-0000333.wav", "A-0000200-0000400.wav"], "of the bad one nothing is left"
    assert {f.name for f in out.iterdir()} == {"audio", "problems.tsv"}, "nothing looks finished"
    assert run("make_clips", *options, "--allow_problems", "true").returncode == 0
    assert set(read_map(out / "wav.scp")) == {name[:-4] for name in kept} and validate(out, rate=16000) == []
    assert (out / "problems.tsv").exists()
    inode = (out / "audio" / kept[0]).stat().st_ino
    bad.write_bytes(good)
    assert run("make_clips", *options).returncode == 0
    assert len(read_map(out / "wav.scp")) == 5 and not (out / "problems.tsv").exists()
    assert (out / "audio" / kept[0]).stat().st_ino == inode, "what was made is kept"


def test_the_merge_decides_about_problems_of_jobs(data_dir, tmp_path, run):
    bad, out = data_dir.parent / "raw" / "B.flac", tmp_path / "dump"
    good = damage(bad)
    options = ("--data_dir", data_dir, "--out_dir", out, "--policy", "oracle_segments", "--num_jobs", 2)
    merge = ("merge_clips", "--out_dir", out, "--num_jobs", 2)
    for job in (1, 2):
        assert run("make_clips", *options, "--job", job).returncode == 0
    refused = run(*merge)
    assert refused.returncode == 1 and refused.stderr.startswith("1 of 2 sessions has problems, see ")
    assert "data\tB\t" in (out / "problems.tsv").read_text() and not (out / "supervision").exists()
    allowed = run(*merge, "--allow_problems", "true")
    assert (allowed.returncode, allowed.stdout) == (0, f"{out}: 2 clips, 0.00 hours\n")
    assert validate(out, rate=16000) == [] and (out / "problems.tsv").exists() and not (out / "jobs").exists()
    bad.write_bytes(good)
    for job in (1, 2):
        assert run("make_clips", *options, "--job", job).returncode == 0
    assert run(*merge).returncode == 0 and not (out / "problems.tsv").exists()
    assert len(read_map(out / "supervision")) == 5


def test_lines_are_sorted_whatever_recordings_are_called(tmp_path):
    """The id of one recording may stand between the clips of another."""
    recs = ["a", "a-0000150-0000900", "a-", "a-0", "b", "a.b", "a-00001"]
    for rec in recs:
        write_audio(tmp_path / f"{rec}.wav", np.zeros(32000, np.int16), 16000)
    segments = [
        {"session_id": rec, "speaker": "s", "start_time": start, "end_time": start + 0.5, "words": "x"}
        for rec in recs for start in (0.2, 1.0, 1.5)
    ]
    DataDir.from_seglst(segments, {rec: f"{tmp_path}/{rec}.wav" for rec in recs}).write(tmp_path / "data")
    make_clips(tmp_path / "data", tmp_path / "one", policy="oracle_segments")
    for job in (1, 2, 3):
        make_clips(tmp_path / "data", tmp_path / "three", policy="oracle_segments", job=job, num_jobs=3)
    merge_clips(tmp_path / "three", 3)
    one, three = files(tmp_path / "one"), files(tmp_path / "three")
    assert {k: v.replace(b"/one/", b"/three/") for k, v in one.items()} == three
    assert validate(tmp_path / "one") == [] and len(read_map(tmp_path / "one" / "wav.scp")) == 21


def test_files_in_another_order_give_the_same_clips(data_dir, tmp_path):
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    expected = files(tmp_path / "dump")
    for name in ("text", "wav.scp", "segments", "utt2spk"):
        lines = (data_dir / name).read_text().splitlines(keepends=True)
        (data_dir / name).write_text("".join(reversed(lines)))
    make_clips(data_dir, tmp_path / "dump", policy="utterance_group")
    assert files(tmp_path / "dump") == expected


def eight_channels(path, seconds, rate=16000, subtype="PCM_16"):
    import soundfile

    samples = np.random.default_rng(5).normal(0, 2000, (seconds * rate, 8)).astype(np.int16)
    soundfile.write(path, samples, rate, subtype=subtype)
    return samples


@pytest.mark.parametrize("policy", ["whole", "utterance_group", "no_overlap_cut", "random_40_50", "oracle_segments"])
def test_the_chosen_channel_is_extracted(data_dir, tmp_path, policy):
    samples = {
        "A": eight_channels(data_dir.parent / "raw" / "A.wav", 5),
        "B": eight_channels(data_dir.parent / "raw" / "B.flac", 9)[:136000],
    }
    import soundfile

    soundfile.write(data_dir.parent / "raw" / "B.flac", samples["B"], 16000)
    write_map(data_dir / "channel", {"A": "8", "B": "3"})
    clips = cut(data_dir, tmp_path / "dump", policy=policy, max_clip=9.0, min_clip=2.0)
    wav = read_map(tmp_path / "dump" / "wav.scp")
    assert set(wav) == {clip.id for clip in clips} and validate(tmp_path / "dump", rate=16000) == []
    for clip in clips:
        assert wav[clip.id] == f"{tmp_path}/dump/audio/{clip.id}.wav"
        span = samples[clip.rec][round(clip.start * 16000) : round(clip.end * 16000), {"A": 7, "B": 2}[clip.rec]]
        np.testing.assert_array_equal(read_audio(wav[clip.id])[0] * 32768, span)
    assert not (tmp_path / "dump" / "channel").exists(), "a clip has one channel"


def test_another_channel_makes_other_clips(data_dir, tmp_path):
    samples = eight_channels(data_dir.parent / "raw" / "A.wav", 5)
    for channel in (2, 4):
        write_map(data_dir / "channel", {"A": str(channel)})
        later = os.path.getmtime(data_dir / "channel") + 10 * channel
        os.utime(data_dir / "channel", (later, later))
        make_clips(data_dir, tmp_path / "dump")
        read = read_audio(read_map(tmp_path / "dump" / "wav.scp")["A"])[0]
        np.testing.assert_array_equal(read * 32768, samples[:, channel - 1])


@pytest.mark.parametrize("name, subtype", [("A.wav", "FLOAT"), ("A.wav", "PCM_24"), ("A.flac", "PCM_16")])
def test_each_recording_is_read_once(data_dir, tmp_path, monkeypatch, name, subtype):
    """Clips of overlapping utterances as well; pipes are run twice at most, for the header of another is not kept."""
    import soundfile

    eight_channels(tmp_path / name, 5, subtype=subtype)
    wav = {"A": str(tmp_path / name), "B": f"cat {read_map(data_dir / 'wav.scp')['B']} |"}
    write_map(data_dir / "wav.scp", wav)
    write_map(data_dir / "channel", {"A": "1"})
    frames, sound = [], soundfile.SoundFile

    class Counting(sound):
        def read(self, count, **options):
            frames.append(count)
            return super().read(count, **options)

    monkeypatch.setattr(soundfile, "SoundFile", Counting)
    make_clips(data_dir, tmp_path / "dump", policy="oracle_segments")
    # Of A 0.5 to 4 s, of B 1 to 6 and 7 to 8 s; the last sample of each is looked at once, and clips are not read.
    assert sum(frames) <= 3.5 * 16000 + 6 * 16000 + 2


def test_bad_channels_and_files(data_dir, tmp_path, run):
    def refused(*options):
        ran = run("make_clips", "--data_dir", data_dir, "--out_dir", tmp_path / "dump", *options)
        assert ran.returncode == 1 and "Traceback" not in ran.stderr and not (tmp_path / "dump" / "wav.scp").exists()
        return ran.stderr

    path = data_dir.parent / "raw" / "A.wav"
    eight_channels(path, 5)
    assert "A.wav: has 8 channels and none is chosen; name one in the data directory's file 'channel'" in refused()
    write_map(data_dir / "channel", {"A": "9"})
    assert "A.wav: has 8 channels, not a channel 9; choose another channel" in refused()
    write_map(data_dir / "channel", {"A": "first"})
    assert "channel: 'A first'; expected '<recording> <number from 1 on>'" in refused()
    write_map(data_dir / "channel", {"A": "8"})
    path.write_bytes(path.read_bytes()[:-100000])
    assert "A.wav: is truncated or damaged" in refused()
    write_map(data_dir / "wav.scp", {**read_map(data_dir / "wav.scp"), "A": f"cat {tmp_path}/none.wav |"})
    assert "the command exited with 1: cat:" in refused()
    eight_channels(tmp_path / "A.flac", 5)
    raw = bytearray((tmp_path / "A.flac").read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 5000] = bytes(5000)
    (tmp_path / "A.flac").write_bytes(raw)
    write_map(data_dir / "wav.scp", {**read_map(data_dir / "wav.scp"), "A": str(tmp_path / "A.flac")})
    assert "A.flac: is truncated or damaged" in refused("--policy", "oracle_segments")


def test_clips_without_speech_are_left_out_and_counted(data_dir, tmp_path, run):
    write_audio(data_dir.parent / "raw" / "A.wav", np.zeros(16000 * 60, np.int16), 16000)
    clips = cut(data_dir, tmp_path / "dump", policy="random_40_50", max_clip=12, min_clip=10, seed=3)
    assert {clip.rec for clip in clips} == {"A", "B"} and len(clips) == 2
    statistics = Statistics.read(tmp_path / "dump" / "statistics.json")
    assert statistics.segments == 2 and statistics.left_out == pytest.approx(60 - clips[0].end, abs=1e-6)
    again = cut(data_dir, tmp_path / "dump", policy="random_40_50", max_clip=12, min_clip=10, seed=3)
    other = cut(data_dir, tmp_path / "other", policy="random_40_50", max_clip=12, min_clip=10, seed=4)
    assert again == clips != other
    for name in ("segments", "text", "utt2spk"):
        (data_dir / name).write_text("")
    ran = run("make_clips", "--data_dir", data_dir, "--out_dir", tmp_path / "silent", "--policy", "no_overlap_cut")
    assert ran.returncode == 1 and "silent: there is no clip in which somebody speaks" in ran.stderr


@pytest.mark.parametrize("policy", ["whole", "utterance_group", "no_overlap_cut", "random_40_50", "oracle_segments"])
def test_a_recording_without_utterances_makes_no_clip(data_dir, tmp_path, policy):
    data = DataDir.read(data_dir)
    replace(data, utterances=[u for u in data.utterances if u.rec == "A"]).write(data_dir)
    clips = cut(data_dir, tmp_path / "dump", policy=policy)
    statistics = Statistics.read(tmp_path / "dump" / "statistics.json")
    assert {clip.rec for clip in clips} == {"A"} and statistics.left_out >= 8.5


def test_equal_spans_get_different_names(data_dir, tmp_path):
    segments = [
        {"session_id": "A", "speaker": spk, "start_time": start, "end_time": 2.0, "words": "x"}
        for spk, start in (("s1", 1.0), ("s2", 1.0), ("s2", 1.004), ("s3", 0.0))
    ]
    data = DataDir.from_seglst(segments[:2] + segments[3:], {"A": read_map(data_dir / "wav.scp")["A"]})
    late = Utterance("s2-late", "A", "s2", 1.004, 2.0, "x")
    replace(data, utterances=[*data.utterances, late]).write(tmp_path / "same")
    clips = cut(tmp_path / "same", tmp_path / "dump", policy="oracle_segments")
    stem = "A-0000100-0000200"
    assert [clip.id for clip in clips] == ["A-0000000-0000200", stem, f"{stem}-s2", f"{stem}-s2.2"]
    assert [len(clip.utterances) for clip in clips] == [1] * 4
    write_audio(tmp_path / "two.wav", np.zeros(32000, np.int16), 16000)
    together = [segments[3], {**segments[3], "speaker": "s4"}]
    DataDir.from_seglst(together, {"A": str(tmp_path / "two.wav")}).write(tmp_path / "both")
    clips = cut(tmp_path / "both", tmp_path / "dump2", policy="oracle_segments")
    assert read_map(tmp_path / "dump2" / "wav.scp") == {"A": f"{tmp_path}/two.wav", "A-s4": f"{tmp_path}/two.wav"}


def test_the_command(data_dir, tmp_path, run):
    for job in (1, 2):
        ran = run("make_clips", "--data_dir", data_dir, "--out_dir", tmp_path / "dump", "--job", job, "--num_jobs", 2)
        assert (ran.returncode, ran.stdout) == (0, "1 clips, 0.00 hours\n"), ran.stderr
    merged = run("merge_clips", "--out_dir", tmp_path / "dump", "--num_jobs", 2)
    assert merged.stdout == f"{tmp_path}/dump: 2 clips, 0.00 hours\n"
    assert run("show_statistics", tmp_path / "dump").stdout.splitlines()[1].split() == [
        # 1.333 of 3.5 s of speech in A, 0.5 of 6 s in B
        f"{tmp_path}/dump", "2", "0.00", "6.75", "2.00", "19.29", "0", "0.0"
    ]
    assert run("make_clips", "--data_dir", data_dir, "--out_dir", tmp_path / "dump").stdout == merged.stdout
    assert set(read_map(tmp_path / "dump" / "wav.scp")) == {"A", "B"} and not (tmp_path / "dump" / "jobs").exists()


@pytest.mark.parametrize("policy, size", [("whole", 150), ("utterance_group", 20000)])
def test_full_disk_keeps_what_was_there(data_dir, tmp_path, run, full_disk, policy, size):
    """The limit is met in the lists of whole recordings, and in the audio of groups."""
    options = ("--data_dir", data_dir, "--policy", policy, "--max_clip", "9", "--out_dir")
    assert run("make_clips", *options, tmp_path / "whole").returncode == 0
    expected = {name: text.replace(b"/whole/", b"/dump/") for name, text in files(tmp_path / "whole").items()}
    full_disk(size, "make_clips", *options, tmp_path / "dump")
    done = files(tmp_path / "dump")
    assert done.items() <= expected.items() and len(done) < len(expected)
    assert run("make_clips", *options, tmp_path / "dump").returncode == 0
    assert files(tmp_path / "dump") == expected
    # Audio that is there is not made again; the lists are, and meet the limit.
    full_disk(100, "make_clips", *options, tmp_path / "dump")
    assert files(tmp_path / "dump").items() <= expected.items()
