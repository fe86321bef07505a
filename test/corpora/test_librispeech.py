"""LibriSpeech: the official layout, real transcripts, chapters that cannot be read."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import librispeech
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.validate import validate

CHAPTERS = {"dev-clean": {"84/121123": 3, "174/50561": 2}, "train-clean-100": {"1034/121119": 2}}


@pytest.fixture
def corpus(tmp_path):
    """Two parts, three chapters: 0.3 s of silence, 1 s of tone, 0.2 s of silence in each file."""
    root = tmp_path / "LibriSpeech"
    tone = 0.1 * np.sin(np.arange(16000) * 0.3)
    samples = np.concatenate([np.zeros(4800), tone, np.zeros(3200)]).astype(np.float32)
    for part, chapters in CHAPTERS.items():
        for chapter, number in chapters.items():
            reader, name = chapter.split("/")
            folder = root / part / reader / name
            utts = [f"{reader}-{name}-{n:04d}" for n in range(number)]
            for utt in utts:
                write_audio(folder / f"{utt}.flac", samples, 16000)
            lines = [f"{utt} CHAPTER {name} IT'S NUMBER {utt[-1]}\n" for utt in utts]
            (folder / f"{reader}-{name}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text("; readers\n")
    return root


def run(repository, *arguments):
    command = [sys.executable, "-m", "espnet_mt_llm.bin.prepare_librispeech", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_data_directories(corpus, tmp_path):
    out = tmp_path / "data"
    summaries = librispeech.prepare(corpus, out)
    assert [(s.name, s.sessions, s.speakers) for s in summaries] == [("librispeech_train_clean_100", 2, 1),
                                                                     ("librispeech_dev_clean", 5, 2)]
    data = DataDir.read(out / "librispeech_dev_clean")
    assert not validate(data.path) and not (out / "problems.tsv").exists()
    utt = data.utterances[-1]
    assert (utt.utt, utt.rec, utt.spk, utt.text) == ("84-121123-0002", "84-121123-0002", "84",
                                                     "CHAPTER 121123 IT'S NUMBER 2")
    assert (utt.start, utt.end, data.reco2dur[utt.rec]) == (pytest.approx(0.3), pytest.approx(1.3), 1.5)
    assert data.wav[utt.rec] == str(corpus / "dev-clean/84/121123/84-121123-0002.flac")


def test_the_parent_folder_and_processes_give_the_same(corpus, tmp_path):
    librispeech.prepare(corpus, tmp_path / "a")
    librispeech.prepare(corpus.parent, tmp_path / "b", nj=2)
    files = sorted((tmp_path / "a").glob("*/*"))
    assert len(files) == 12
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_whole_files_and_chosen_parts(corpus, tmp_path):
    librispeech.prepare(corpus, tmp_path, parts=["dev-clean"], trim=False)
    data = DataDir.read(tmp_path / "librispeech_dev_clean")
    assert {(u.start, u.end) for u in data.utterances} == {(0.0, 1.5)} and not (data.path / "segments").exists()
    assert not (tmp_path / "librispeech_train_clean_100").exists()


@pytest.mark.parametrize("part, words", [("dev-clena", "no part 'dev-clena'; did you mean 'dev-clean'"),
                                         ("test-other", "test-other: no such folder; get test-other.tar.gz")])
def test_parts_that_are_not_there(corpus, tmp_path, part, words):
    with pytest.raises(UserError, match=words):
        librispeech.prepare(corpus, tmp_path, parts=[part])


def test_what_other_corpora_ask(corpus):
    assert librispeech.parts(corpus.parent) == ["train-clean-100", "dev-clean"]
    texts = librispeech.transcript(corpus / "dev-clean/84/121123")
    assert texts == {f"84-121123-000{n}": f"CHAPTER 121123 IT'S NUMBER {n}" for n in range(3)}


def test_a_recording_without_a_transcript_is_told(corpus, tmp_path, caplog):
    folder = corpus / "dev-clean/84/121123"
    path = folder / "84-121123.trans.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    librispeech.prepare(corpus, tmp_path, parts=["dev-clean"])
    assert f"{folder}: recordings without a transcript are left out (1): 84-121123-0002" in caplog.text


def test_a_byte_order_mark_is_no_text(corpus):
    path = corpus / "dev-clean/84/121123/84-121123.trans.txt"
    before = librispeech.transcript(path.parent)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert librispeech.transcript(path.parent) == before


@pytest.mark.parametrize("content, words", [
    (None, "84-121123.trans.txt: no such file; unpack the part's archive again"),
    (b"84-121123-0000 ONE\n84-121123-0001 CAF\xc9\n", "84-121123.trans.txt:2: not UTF-8; unpack"),
    (b"84-121123-0000 ONE\n\n", "84-121123.trans.txt:2: expected '<utterance> <TEXT>', each once, found ''"),
    (b"84-121123-0000 ONE\n84-121123-0001\n", ":2: expected .* found '84-121123-0001'"),
    (b"84-121123-0000 ONE\n84-121123-0000 TWO\n", ":2: expected .* found '84-121123-0000 TWO'"),
])
def test_transcripts_that_cannot_be_read(corpus, content, words):
    folder = corpus / "dev-clean/84/121123"
    if content is None:
        (folder / "84-121123.trans.txt").unlink()
    else:
        (folder / "84-121123.trans.txt").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        librispeech.transcript(folder)
    assert "fix_data_dir" not in str(error.value) and librispeech.URL in str(error.value)


def test_bad_files_are_one_problem_a_chapter_and_the_others_are_kept(corpus, tmp_path, repository):
    folder = corpus / "dev-clean" / "84" / "121123"
    (folder / "84-121123-0000.flac").unlink()
    path = folder / "84-121123-0002.flac"
    path.write_bytes(path.read_bytes()[:1000])
    (corpus / "train-clean-100" / "1034" / "121119" / "1034-121119.trans.txt").unlink()
    out = tmp_path / "data"
    ran = run(repository, "--root", corpus, "--out", out, "--nj", 2)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    rows = [line.split("\t") for line in (out / "problems.tsv").read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [["librispeech_dev_clean", "84/121123"],
                                         ["librispeech_train_clean_100", "1034/121119"]]
    assert "2 of 3 recordings cannot be read, the first is" in rows[0][2] and "no such audio file" in rows[0][2]
    assert "fix_data_dir" not in ran.stderr
    assert "1034-121119.trans.txt: no such file" in rows[1][2]
    data = DataDir.read(out / "librispeech_dev_clean")
    assert list(data.wav) == ["174-50561-0000", "174-50561-0001", "84-121123-0001"] and not validate(data.path)
    assert run(repository, "--root", corpus, "--out", out, "--allow_problems", "true").returncode == 0


def test_a_set_without_any_good_file_does_not_stay(corpus, tmp_path):
    librispeech.prepare(corpus, tmp_path)
    for path in (corpus / "dev-clean").rglob("*.flac"):
        path.unlink()
    found = {s.name: s.sessions for s in librispeech.prepare(corpus, tmp_path, allow_problems=True)}
    assert found["librispeech_dev_clean"] == 0 and not (tmp_path / "librispeech_dev_clean" / "wav.scp").exists()
    assert (tmp_path / "librispeech_train_clean_100" / "wav.scp").exists()


def test_debug_takes_a_few_chapters(corpus, tmp_path):
    for number in range(200, 204):
        folder = corpus / "dev-clean" / "84" / str(number)
        shutil.copytree(corpus / "dev-clean" / "84" / "121123", folder)
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace("121123", str(number)))
        text = folder / f"84-{number}.trans.txt"
        text.write_text(text.read_text().replace("121123", str(number)))
    librispeech.prepare(corpus, tmp_path, debug=True)
    recordings = DataDir.read(tmp_path / "librispeech_dev_clean").wav
    assert {rec[:-5] for rec in recordings} == {"174-50561", "84-121123", "84-200"}


def test_wrong_folder(corpus, tmp_path, repository):
    ran = run(repository, "--root", corpus / "dev-clean", "--out", tmp_path / "data")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "no LibriSpeech here (found in it: 174, 84); wanted: LibriSpeech/<part>/<reader>" in ran.stderr
    assert librispeech.URL in ran.stderr and "LIBRISPEECH=" in ran.stderr


def test_real_transcripts(real_data):
    root = real_data / "librispeech"
    assert librispeech.parts(root) == ["dev-clean", "test-clean"]
    texts = {part: {utt: text for path in (root / "LibriSpeech" / part).glob("*/*")
                    for utt, text in librispeech.transcript(path).items()} for part in librispeech.parts(root)}
    assert {part: len(of_part) for part, of_part in texts.items()} == {"dev-clean": 2703, "test-clean": 2620}
    assert texts["dev-clean"]["1272-128104-0000"].startswith("MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES")
    assert all(text and text == text.upper() for of_part in texts.values() for text in of_part.values())


def test_real_transcripts_without_audio_are_a_problem_a_chapter(real_data, tmp_path):
    with pytest.raises(UserError, match="97 of 97 sessions have problems"):
        librispeech.prepare(real_data / "librispeech", tmp_path, parts=["dev-clean"])
    rows = (tmp_path / "problems.tsv").read_text().splitlines()[1:]
    assert len(rows) == 97 and all("recordings cannot be read" in row for row in rows)
    assert not (tmp_path / "librispeech_dev_clean").exists()
