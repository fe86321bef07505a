"""LibriMix: what is missing or broken in its sources and metadata, and what is prepared all the same."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_librimix import RATE, ROWS, Toy, write_csv

from espnet_mt_llm.common import UserError
from espnet_mt_llm.corpora import librimix_files, librispeech
from espnet_mt_llm.corpora.librimix_files import read_rows
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.simulation.mixtures import MixtureReader


@pytest.fixture(scope="module")
def toy(real_data, tmp_path_factory) -> Toy:
    return Toy(tmp_path_factory.mktemp("librimix") / "toy", real_data)


def run(repository: Path, *args) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "espnet_mt_llm.bin.prepare_librimix", *map(str, args)],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})


def test_sessions_with_problems_are_listed_and_the_others_prepared(toy, tmp_path, repository):
    toy = toy.copy(tmp_path / "toy")
    missing, corrupt, no_text = (toy.librispeech / row["source_1_path"] for row in toy.rows[2, "plain"][:3])
    missing.unlink()
    corrupt.write_bytes(corrupt.read_bytes()[:300])
    transcript = next(no_text.parent.glob("*.trans.txt"))
    lines = transcript.read_text().splitlines(keepends=True)
    transcript.write_text("".join(line for line in lines if not line.startswith(no_text.stem)))
    path = toy.metadata / "Libri2Mix/libri2mix_dev-clean.csv"
    good = path.read_text()
    fifth = good.splitlines()[4]
    path.write_text(good + fifth.replace("0026_", "9_").replace(fifth.split(",")[0], "same_reader").replace(
        fifth.split(",")[3], fifth.split(",")[1]) + "\n" + fifth + "\ncut_off,dev-clean/1/2/1-2-3.flac,0.5\n")
    options = ["--librispeech", toy.librispeech, "--metadata", toy.metadata, "--wham", toy.wham, "--num_talkers", "2",
               "--parts", "dev", "--conditions", "plain", "--out", tmp_path / "data"]
    ran = run(repository, *options)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "sessions have problems, see" in ran.stderr and "--allow_problems true" in ran.stderr
    problems = [line.split("\t") for line in (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]]
    of_set = {session: problem for name, session, problem in problems if name == "dev_2mix"}
    assert len(problems) == len(of_set) == 6 and "6 of 6 sessions have problems" in ran.stderr
    assert ran.stderr.count("no such audio file") == 1 and "fix_data_dir" not in ran.stderr
    ids = [row["mixture_ID"] for row in toy.rows[2, "plain"]]
    assert sorted(of_set) == sorted([*ids, "same_reader", "cut_off"])
    for session, words in ((ids[0], "libri2mix_dev-clean.csv:2: "), (ids[0], "no such audio file"),
                           (ids[1], corrupt.name), (ids[2], "has no transcript"), (ids[3], "is there twice"),
                           ("same_reader", "two sources are of one reader"), ("cut_off", "'source_2_path' is empty")):
        assert words in of_set[session]
    assert list(DataDir.read(tmp_path / "data/dev_2mix_both").wav) == [ids[3]]
    assert run(repository, *options, "--allow_problems", "true").returncode == 0
    path.write_text(good)


def test_missing_noise_files_are_problems_of_noisy_sets_alone(toy, tmp_path):
    toy = toy.copy(tmp_path / "toy")
    rows = toy.rows[2, "plain"]
    (toy.wham / rows[0]["noise_path"]).unlink()
    soundfile.write(toy.wham / rows[1]["noise_path"], np.zeros((8001, 2)), RATE)
    soundfile.write(toy.wham / rows[2]["noise_path"], np.zeros((80010, 2)), 8000)
    with pytest.raises(UserError, match="3 of 4 sessions have problems"):
        toy.prepare(tmp_path / "data", select={"num_talkers": [2], "conditions": ["plain"]})
    text = (tmp_path / "data/problems.tsv").read_text()
    for words in ("no such audio file", "8001 samples, too few", "has 8000 Hz"):
        assert words in text
    assert len(DataDir.read(tmp_path / "data/dev_2mix_clean").wav) == ROWS
    assert len(DataDir.read(tmp_path / "data/dev_2mix_both").wav) == 1


def test_without_wham_the_clean_sets_are_prepared(toy, tmp_path, repository):
    options = ["--librispeech", toy.librispeech, "--metadata", toy.root / "LibriMix", "--out", tmp_path / "data",
               "--num_talkers", "2", "--debug", "true"]
    for wham in ([], ["--wham", tmp_path / "absent"]):
        ran = run(repository, *options, *wham)
        assert ran.returncode == 0 and "not made: dev_2mix_both dev_2mix_both_offset: they need noise" in ran.stdout
        assert "wham_noise.zip from http" in ran.stdout and "not made: train_100_*: no " in ran.stdout
        assert sorted(f.name for f in (tmp_path / "data").iterdir()) == ["dev_2mix_clean", "dev_2mix_clean_offset"]
    ran = run(repository, *options, "--wham", toy.librispeech)
    assert ran.returncode == 1 and "(found in it: dev-clean); wanted: tr/*.wav" in ran.stderr
    assert "no WHAM! noise here" in (tmp_path / "data/problems.tsv").read_text()
    ran = run(repository, *options, "--types", "both")
    assert ran.returncode == 1 and "no WHAM! noise here" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("change, words", [
    ({"--metadata": "{toy}/wham_noise"}, "no metadata of LibriMix here (found in it: cv); wanted: Libri2Mix/"),
    ({"--metadata": "{toy}/none"}, "no metadata of LibriMix here (no such folder)"),
    ({"--librispeech": "{toy}/wham_noise"}, "no LibriSpeech here"),
    ({"--parts": "test"}, "nothing to prepare: test (no "),
    ({"--parts": "devel"}, "no part 'devel'; did you mean 'dev'?"),
    ({"--types": "cleen"}, "no type 'cleen'; did you mean 'clean'?"),
    ({"--rate": "44100"}, "no rate 44100"),
    ({"--mode": "mean"}, "no mode 'mean'"),
    ({"--num_talkers": "4"}, "no number of talkers 4"),
    ({"--conditions": "delayed"}, "no condition 'delayed'"),
])
def test_wrong_options_and_folders(toy, tmp_path, repository, change, words):
    options = {"--librispeech": toy.librispeech, "--metadata": toy.metadata, "--out": tmp_path / "data", **change}
    ran = run(repository, *itertools.chain.from_iterable(
        (key, str(value).format(toy=toy.root)) for key, value in options.items()))
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("content, words", [
    ("mixture_ID,speaker_1_ID\na,1.0\n", ":1: the columns source_1_path, .* are missing; .*_info.csv"),
    ("", ":1: the columns mixture_ID, "),
    ("\xff\xfe".encode("latin-1"), "no CSV file"),
])
def test_files_that_are_no_metadata(tmp_path, content, words):
    path = tmp_path / "libri2mix_dev-clean.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        read_rows(path, 2)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.csv", 2)


@pytest.mark.parametrize("change, words", [
    ({"source_1_gain": "loud"}, "'source_1_gain' is 'loud', not a number"),
    ({"source_1_gain": "nan"}, "'source_1_gain' is 'nan', not a number"),
    ({"offset2": "nan"}, "'offset2' is 'nan', not a number"),
    ({"noise_gain": "inf"}, "'noise_gain' is 'inf', not a number"),
    ({"noise_path": ""}, "'noise_path' is empty"),
    ({"offset1": "-1.0"}, "cannot be negative"),
])
def test_broken_rows(toy, tmp_path, change, words):
    write_csv(tmp_path / "libri3mix.csv", [{**toy.rows[3, "offset"][0], **change}, toy.rows[3, "offset"][1]])
    rows = read_rows(tmp_path / "libri3mix.csv", 3)
    assert len(rows.good) == 1 and words in rows.bad[0][1] and "libri3mix.csv:2: " in rows.bad[0][1]


@pytest.fixture
def recipe(toy, tmp_path) -> Toy:
    """Rows of dev as train-100, dev and test, with the sources of dev."""
    toy = toy.copy(tmp_path / "toy")
    for part in ("train-clean-100", "test-clean"):
        (toy.librispeech / part).mkdir()
        for path in list((toy.root / "LibriMix").rglob("*_dev-clean.csv")):
            if path.parent.name != "Libri3Mix_offset" or part == "test-clean":
                shutil.copy(path, path.with_name(path.name.replace("dev-clean", part)))
    return toy


ARGUMENTS = {"parts": ["train_100", "dev", "test"]}


def made(out: Path) -> set[str]:
    return {path.parent.name for path in out.glob("*/wav.scp")}


def test_without_published_offsets_of_three_talkers_dev_and_test_are_not_made(recipe, tmp_path, capsys, caplog):
    recipe.prepare(tmp_path / "all", select=ARGUMENTS)
    assert "not made" not in capsys.readouterr().out
    assert caplog.text.count("has no offsets, they are drawn") == 4  # train of 2 and 3 talkers, dev and test of 2
    shutil.move(recipe.root / "LibriMix/Libri3Mix_offset", recipe.root / "metadta_Libri3Mix_offset")
    recipe.prepare(tmp_path / "data", select=ARGUMENTS)
    out = capsys.readouterr().out
    left = {f"{part}_{n}mix_{kind}_offset" for part in ("dev", "test") for n in (3, 23) for kind in ("clean", "both")}
    assert made(tmp_path / "all") - made(tmp_path / "data") == left
    line = next(line for line in out.splitlines() if line.startswith("not made: "))
    assert set(line.removeprefix("not made: ").split(": ")[0].split()) == left
    assert "hshi-speech/LibriMix-repo, local/metadta_Libri3Mix_offset" in line and "--draw_offsets true" in line
    assert out.splitlines()[-1].endswith(
        './run.sh --train_set train_100_2mix_both_offset --valid_set dev_2mix_both_offset '
        '--test_sets "dev_2mix_both_offset test_2mix_both_offset"')
    recipe.prepare(tmp_path / "drawn", select={**ARGUMENTS, "draw_offsets": True})
    assert made(tmp_path / "drawn") == made(tmp_path / "all") and "not made" not in capsys.readouterr().out
    capsys.readouterr()
    recipe.prepare(tmp_path / "drawn", select=ARGUMENTS)
    assert f"an earlier run has left sets that were not made now: rm -r {tmp_path}/drawn/dev_3mix_clean_offset " in (
        capsys.readouterr().out)
    recipe.prepare(tmp_path / "named", select=ARGUMENTS, offset_metadata=[recipe.root])
    for name in sorted(left):
        manifest = "mixtures.jsonl"
        assert (tmp_path / "named" / name / manifest).read_text() == (tmp_path / "all" / name / manifest).read_text()
    with pytest.raises(UserError, match="no set of mixtures was made"):
        recipe.prepare(tmp_path / "none", select={"parts": ["dev"], "num_talkers": [3], "conditions": ["offset"]})


def test_rows_that_all_fail_leave_the_earlier_set_and_say_so(recipe, tmp_path, capsys):
    recipe.prepare(tmp_path / "data", select={"num_talkers": [2], "parts": ["dev"], "types": ["clean"]})
    capsys.readouterr()
    for path in recipe.librispeech.rglob("*.flac"):
        path.unlink()
    with pytest.raises(UserError, match="no set of mixtures was made"):
        recipe.prepare(tmp_path / "data", select={"num_talkers": [2], "parts": ["dev"], "types": ["clean"]},
                       allow_problems=True)
    out = capsys.readouterr().out
    assert "not made: dev_2mix_clean_offset dev_2mix_clean: none of its rows could be used, see" in out or (
        "not made: dev_2mix_clean dev_2mix_clean_offset: none of its rows could be used, see" in out)
    assert "an earlier run has left sets that were not made now: rm -r " in out


def test_a_wrong_folder_of_noise_is_forgotten_when_it_is_right(toy, tmp_path):
    chosen = {"num_talkers": [2], "conditions": ["plain"]}
    toy.prepare(tmp_path / "data", wham=toy.librispeech, select=chosen, allow_problems=True)
    assert "no WHAM! noise here" in (tmp_path / "data/problems.tsv").read_text()
    toy.prepare(tmp_path / "data", select=chosen)
    assert not (tmp_path / "data/problems.tsv").exists()


def test_one_column_of_offsets_is_none_for_three_talkers(toy, tmp_path):
    rows = [{**{k: v for k, v in row.items() if not k.startswith("offset")}, "offset": "1.1"}
            for row in toy.rows[3, "offset"]]
    write_csv(tmp_path / "libri3mix_dev-clean.csv", rows)
    assert not read_rows(tmp_path / "libri3mix_dev-clean.csv", 3).has_offsets


def test_a_csv_that_a_spreadsheet_has_saved(toy, tmp_path):
    path = tmp_path / "libri2mix_dev-clean.csv"
    write_csv(path, toy.rows[2, "plain"])
    good = read_rows(path, 2).good
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path, 2).good == good and len(good) == ROWS


def test_debug_has_the_readers_of_its_mixtures(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(librispeech, "DEBUG_CHAPTERS", 0)
    toy.prepare(tmp_path / "data", prepare_librispeech=True, allow_problems=True,
                select={"num_talkers": [2], "conditions": ["plain"], "debug": True})
    sources = {s.utt for m in MixtureReader(tmp_path / "data/dev_2mix_clean/mixtures.jsonl").manifest.values()
               for s in m.sources}
    assert sources <= set(DataDir.read(tmp_path / "data/librispeech_dev_clean").wav)


def test_offset_folders_that_are_none(toy, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; --offset_metadata"):
        toy.prepare(tmp_path / "data", offset_metadata=[tmp_path / "nowhere"])
    write_csv(tmp_path / "offsets/libri2mix_dev-clean.csv", toy.rows[2, "plain"])
    toy.prepare(tmp_path / "data", offset_metadata=[tmp_path / "offsets"], allow_problems=True)
    rows = (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]
    assert len(rows) == 1 and "libri2mix_dev-clean.csv:1: the columns offset " in rows[0]
    assert "dev_2mix_clean_offset" not in made(tmp_path / "data") and "dev_3mix_clean_offset" in made(tmp_path / "data")


def test_without_noise_the_way_on_is_the_last_line(recipe, tmp_path, capsys):
    recipe.prepare(tmp_path / "data", wham=tmp_path / "none", select=ARGUMENTS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(
        "./run.sh --train_set train_100_23mix_clean_offset --valid_set dev_23mix_clean_offset --test_sets "
        '"dev_2mix_clean_offset test_2mix_clean_offset dev_3mix_clean_offset test_3mix_clean_offset"')
    assert all(name in made(tmp_path / "data") for name in lines[-1].replace('"', "").split() if "mix" in name)
    assert "dev_23mix_both_offset" in lines[-2] and "they need noise" in lines[-2]


def test_metadata_of_two_talkers_alone(recipe, tmp_path, capsys):
    shutil.rmtree(recipe.metadata / "Libri3Mix")
    recipe.prepare(tmp_path / "data", select=ARGUMENTS)
    assert made(tmp_path / "data") == {f"{part}_2mix_{kind}{end}" for part in ("train_100", "dev", "test")
                                       for kind in ("clean", "both") for end in ("", "_offset")}
    out = capsys.readouterr().out
    assert "dev_23mix_both_offset" in out and f"no {recipe.metadata}/Libri3Mix/libri3mix_dev-clean.csv" in out
    assert "--valid_set dev_2mix_both_offset" in out.splitlines()[-1]


@pytest.mark.parametrize("content", [b"\x8b\xff\x00\x9d" * 50, b"", b"mixture_ID,source_1_path\na,b\n"])
def test_one_broken_csv_stops_nothing_else(recipe, tmp_path, content):
    (recipe.metadata / "Libri2Mix/libri2mix_train-clean-100.csv").write_bytes(content)
    recipe.prepare(tmp_path / "all", select={"parts": ["dev", "test"]})
    recipe.prepare(tmp_path / "data", select=ARGUMENTS, allow_problems=True)
    assert made(tmp_path / "all") < made(tmp_path / "data") and "train_100_3mix_both" in made(tmp_path / "data")
    assert not {name for name in made(tmp_path / "data") if name.startswith(("train_100_2mix", "train_100_23mix"))}
    rows = (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]
    assert len(rows) == 1 and rows[0].startswith("train_100_2mix\tlibri2mix_train-clean-100.csv\t")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_transcript_that_cannot_be_read_takes_its_mixtures_alone(toy, tmp_path, content, repository):
    toy = toy.copy(tmp_path / "toy")
    chapter = (toy.librispeech / toy.rows[2, "plain"][0]["source_1_path"]).parent
    transcript = next(chapter.glob("*.trans.txt"))
    transcript.unlink()
    if content:
        transcript.write_bytes(content)
    options = ["--librispeech", toy.librispeech, "--metadata", toy.metadata, "--wham", toy.wham, "--out",
               tmp_path / "data", "--prepare_librispeech", "true", "--allow_problems", "true"]
    ran = run(repository, *options)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr and "fix_data_dir" not in ran.stderr
    rows = [line.split("\t") for line in (tmp_path / "data/problems.tsv").read_text().splitlines()[1:]]
    assert all(transcript.name in problem for name, _, problem in rows if name == "dev_2mix")
    session = "/".join(chapter.parts[-2:])  # other chapters lack recordings
    assert any(row[:2] == ["librispeech_dev_clean", session] and transcript.name in row[2] for row in rows)
    lost = {session for name, session, _ in rows if name == "dev_2mix"}
    assert toy.rows[2, "plain"][0]["mixture_ID"] in lost and len(lost) < ROWS
    assert lost.isdisjoint(DataDir.read(tmp_path / "data/dev_2mix_both").wav)


def test_librispeech_is_measured_once(toy, tmp_path, monkeypatch):
    toy.prepare(tmp_path / "measured")
    measured = []
    activity = librimix_files.sources.activity
    monkeypatch.setattr(librimix_files.sources, "activity", lambda wav: measured.append(wav) or activity(wav))
    toy.prepare(tmp_path / "data", prepare_librispeech=True, allow_problems=True)  # of what is not there
    measured = [wav for wav in measured if Path(wav).exists()]
    assert len(measured) == len(set(measured)) == len(list(toy.librispeech.rglob("*.flac")))
    assert made(tmp_path / "data") - made(tmp_path / "measured") == {"librispeech_dev_clean"}
    for path in (tmp_path / "measured").glob("*/*"):
        text = path.read_text().replace("measured/", "data/")
        assert (tmp_path / "data" / path.relative_to(tmp_path / "measured")).read_text() == text
        assert path.name != "source_dirs" or text == "librispeech_dev_clean\n"
    assert len(list((tmp_path / "data").glob("dev_*/source_dirs"))) == 12


def test_parts_choose_those_of_librispeech(recipe, tmp_path):
    shutil.copytree(recipe.librispeech / "dev-clean", recipe.librispeech / "dev-other")
    recipe.prepare(tmp_path / "dev", prepare_librispeech=True, allow_problems=True)
    assert {name for name in made(tmp_path / "dev") if "libri" in name} == {"librispeech_dev_clean"}


def test_sources_are_written_beside_mixtures_alone(toy, tmp_path):
    with pytest.raises(UserError, match="add --write true"):
        toy.prepare(tmp_path / "data", write_sources=True)


def test_talkers_that_say_nothing_before_the_end(toy, tmp_path, monkeypatch):
    toy.prepare(tmp_path / "late", select={"mode": "min", "types": ["clean"], "num_talkers": [3]})
    late = DataDir.read(tmp_path / "late/dev_3mix_clean_offset_min")
    assert len(late.wav) == ROWS and len(late.utterances) < 3 * ROWS
    assert {len(m.sources) for m in MixtureReader(late.path / "mixtures.jsonl").manifest.values()} == {3}
    monkeypatch.setattr(librimix_files.sources, "activity", lambda wav: (9.0, 10.0, 10.5 if "/1673/" in wav else 2.0))
    with pytest.raises(UserError, match="have problems"):
        toy.prepare(tmp_path / "data", select={"mode": "min", "num_talkers": [2], "types": ["clean"]})
    text = (tmp_path / "data/problems.tsv").read_text()
    assert "nobody says anything before the mixture ends; prepare mode max" in text
