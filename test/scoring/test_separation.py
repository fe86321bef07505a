"""SI-SDR, SDR and STOI against closed forms and other implementations; which estimate belongs to which source."""

import json
import os

import numpy as np
import pytest
from scipy.signal import butter, lfilter

from espnet_mt_llm.bin.score_decode import main
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.scoring import separation
from espnet_mt_llm.scoring.result_types import Mean, Separation
from espnet_mt_llm.scoring.score import score_decode, summary
from espnet_mt_llm.scoring.separation import SILENT_DB, assign, score_signals, sdr, si_sdr, stoi
from espnet_mt_llm.simulation.manifest import Mixture, Source
from espnet_mt_llm.simulation.mixtures import SourceCache, render

RATE = 16000


def talk(seed, seconds=1.6):
    """Noise in a band, in syllables: (N,) on the 16-bit grid."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    b, a = butter(2, [200 + 100 * seed, 3000], "bandpass", fs=RATE)
    signal = lfilter(b, a, rng.normal(size=len(t))) * (0.05 + np.clip(np.sin(2 * np.pi * (2.5 + seed) * t), 0, 1))
    return np.rint(signal / np.abs(signal).max() * 0.4 * 32768) / 32768


A, B = talk(0), talk(1)


def test_si_sdr_is_what_it_is_defined_as():
    rng = np.random.default_rng(3)
    references, estimates = rng.normal(size=(2, 500)), rng.normal(size=(3, 500))
    found = si_sdr(estimates, references)
    for s, e in enumerate(estimates):
        for k, r in enumerate(references):
            target = (e @ r) / (r @ r) * r
            assert found[s, k] == pytest.approx(10 * np.log10(target @ target / ((target - e) @ (target - e))))
    assert si_sdr(7 * estimates, references) == pytest.approx(found)


def test_a_perfect_estimate_is_a_number():
    assert si_sdr(A[None], A[None])[0, 0] == 100 and sdr(A[None], A)[0] > 90
    assert si_sdr(A[None] * 0.5, A[None])[0, 0] == 100


def test_sdr_as_fast_bss_eval(module):
    reference = module("fast_bss_eval")
    estimates = [A + 0.1 * B, 0.3 * A + B, np.convolve(A, [0.5, -0.3, 0.2])[: len(A)] + 0.02 * B, B]
    found = sdr(np.stack(estimates), A)
    for e, value in zip(estimates, found):
        assert value == pytest.approx(float(reference.sdr(A[None], e[None])[0]), abs=1e-3)
    # A short filter is error to SI-SDR and none to SDR.
    assert found[2] > si_sdr(estimates[2][None], A[None])[0, 0] + 3


def test_sdr_of_signals_without_high_bands(module):
    b, a = butter(8, 3500, fs=RATE)
    low, other = lfilter(b, a, A), lfilter(b, a, B)
    expected = float(module("fast_bss_eval").sdr(low[None], (low + 0.05 * other)[None])[0])
    assert sdr((low + 0.05 * other)[None], low)[0] == pytest.approx(expected, abs=0.02)


def test_sdr_of_a_signal_shorter_than_the_filter():
    short = A[4000:4300]
    assert np.isfinite(sdr(np.stack([short + 0.1 * B[:300], B[:300]]), short)).all()


def test_stoi_as_pystoi():
    from pystoi import stoi as reference

    slow = separation._at_stoi_rate(np.stack([A, A + B, np.zeros_like(A)]), RATE)
    found = stoi(slow, slow[0])
    assert found == pytest.approx([1.0, reference(A, A + B, RATE), 0.0], abs=1e-9)


@pytest.mark.parametrize("samples", [1, 100, 3000, 5000])
def test_stoi_of_a_short_signal(samples):
    score = score_signals([A[:samples]], [A[:samples] + 1e-3], A[:samples] + B[:samples] + 1e-3, RATE)
    assert score.means["stoi"].count == 0 and score.means["si_sdr"].count == 1
    assert score.as_dict()["stoi"] is None and score.as_dict()["sources"] == 1


def test_improvement_and_best_permutation():
    mixture = A + B
    estimates = [B + 0.1 * A, A + 0.2 * B]
    score = score_signals(estimates, [A, B], mixture, RATE)
    after = [si_sdr(estimates[1][None], A[None])[0, 0], si_sdr(estimates[0][None], B[None])[0, 0]]
    before = si_sdr(mixture[None], np.stack([A, B]))[0]
    assert score.means["si_sdr"].total == pytest.approx(sum(after))
    assert score.means["si_sdr_improvement"].value == pytest.approx(np.mean(after) - before.mean())
    assert score_signals(estimates[::-1], [A, B], mixture, RATE) == score
    unchanged = score_signals([mixture, mixture], [A, B], mixture, RATE)
    assert unchanged.means["si_sdr_improvement"].value == pytest.approx(0, abs=1e-9)
    assert unchanged.means["sdr_improvement"].value == pytest.approx(0, abs=1e-9)
    assert unchanged.means["stoi"] == unchanged.means["stoi_mixture"]


def test_assignment_of_more_and_fewer_estimates():
    assert assign(np.array([[0.0, 5.0], [9.0, 8.0], [10.0, 1.0]])) == {0: 2, 1: 1}
    assert assign(np.array([[0.0, 5.0, 6.0]])) == {2: 0} and assign(np.zeros((0, 2))) == {}


def test_silent_missing_and_spare_signals():
    nothing = np.zeros_like(A)
    full = score_signals([A + 0.1 * B, B + 0.1 * A], [A, B], A + B, RATE)
    silent = score_signals([A + 0.1 * B, nothing], [A, B], A + B, RATE)
    missing = score_signals([A + 0.1 * B], [A, B], A + B, RATE)
    assert silent == missing and silent.silent_estimates == 1 and silent.means["si_sdr"].count == 2
    lost = full.means["si_sdr"].total - silent.means["si_sdr"].total
    assert lost == pytest.approx(si_sdr((B + 0.1 * A)[None], B[None])[0, 0] - SILENT_DB)
    assert silent.means["stoi"].total < full.means["stoi"].total
    spare = score_signals([A, B, 0.1 * B + A], [A, B], A + B, RATE)
    assert (spare.spare_estimates, spare.silent_estimates) == (1, 0)
    quiet = score_signals([A + 0.1 * B, nothing], [A, nothing], A, RATE)
    assert (quiet.silent_references, quiet.silent_estimates, quiet.means["si_sdr"].count) == (1, 0, 1)
    assert score_signals([A], [nothing], nothing, RATE) == Separation({}, 0, 1, 1)
    assert separation.section([score_signals([A], [nothing], nothing, RATE)])["sources"] == 0
    assert score_signals([], [A], A, RATE).means["sdr"].value == SILENT_DB


def test_counts_add_up():
    one, two = score_signals([A + B], [A], A + B, RATE), score_signals([A, B], [A, B], A + B, RATE)
    total = Separation.zero() + one + two
    assert total.means["si_sdr"] == one.means["si_sdr"] + two.means["si_sdr"] and total.means["si_sdr"].count == 3
    assert (one + two).spare_estimates == one.spare_estimates + two.spare_estimates
    assert Mean.zero().value is None


@pytest.fixture
def separated(tmp_path, monkeypatch, write):
    """Two clips of two talkers and one of one; the sources are in files, the estimates nearly right and swapped."""
    monkeypatch.chdir(tmp_path)
    clips = {"m-1": [("A", 0.0, 1.6, "a"), ("B", 0.0, 1.6, "b")], "m-2": [("A", 0.0, 1.6, "a"), ("B", 0.5, 1.6, "b")],
             "m-3": [("A", 0.0, 1.6, "a")]}
    ref, hyp = write(tmp_path, "t", clips, [("m-1", "0", "a")], dict.fromkeys(clips, 2), system="ume")
    for i, name in enumerate(("a", "b")):
        write_audio(f"{name}.wav", (A, B)[i], RATE)
    (hyp / "separated").mkdir()
    maps = {"wav.scp": [], "spk1.scp": [], "spk2.scp": []}
    lines, cache = [], SourceCache()
    for clip, segments in clips.items():
        sources = tuple(Source(f"u{k}", s[0], s[3], "ab"[k] + ".wav", 0.0, 1.6 - s[1], s[1], 0.5)
                        for k, s in enumerate(segments))
        mixture = Mixture(clip, RATE, len(A), sources)
        lines.append(mixture.to_json() + "\n")
        made = render(mixture, cache)
        for name, signal in zip(maps, (made.mixture, *made.sources)):
            write_audio(f"{clip}.{name}.flac", signal, RATE)
            maps[name].append(f"{clip} {clip}.{name}.flac\n")
        for k, signal in enumerate(made.sources[::-1]):
            write_audio(hyp / "separated" / f"{clip}-{k}.flac", 0.9 * signal + 0.1 * made.mixture, RATE)
    for name, rows in maps.items():
        (ref / name).write_text("".join(rows))
    (tmp_path / "mixtures.jsonl").write_text("".join(lines))
    return ref, hyp


def test_a_decode_directory_with_signals(separated, tmp_path):
    ref, hyp = separated
    score = score_decode(ref, hyp)
    s = score["separation"]
    assert s["sources"] == 5 and s["silent_estimates"] == s["spare_estimates"] == 0
    assert s["si_sdr_improvement"] > 10 and s["sdr_improvement"] > 10 and 0.9 < s["stoi"] < 1
    assert score["by_num_speakers"]["2"]["separation"]["sources"] == 4
    assert len(score["sessions"]["m-2"]["separation"]) == 3 and "diarization" not in score
    assert "-30 dB" in score["conventions"]["separation"] and "SI-SDRi " in summary(score)
    # The same from several processes, and from sources that are rendered instead of read.
    assert score_decode(ref, hyp, nj=2) == score
    for name in ("spk1.scp", "spk2.scp", "wav.scp"):
        (ref / name).unlink()
    os.rename(tmp_path / "mixtures.jsonl", ref / "mixtures.jsonl")
    assert score_decode(ref, hyp)["separation"] == s
    assert score_decode(ref, hyp, nj=2)["separation"] == s


def test_a_clip_without_signals_is_silent_and_reported(separated, capsys):
    ref, hyp = separated
    (hyp / "separated/m-3-0.flac").unlink()
    score = score_decode(ref, hyp)
    assert score["separation"]["silent_estimates"] == 1 and score["sessions"]["m-3"]["separation"][2] == 0.0
    assert "clips without separated signals, counted as silent: 1, the first is m-3" in summary(score)


def test_no_sources_no_score(separated):
    ref, hyp = separated
    for name in ("spk1.scp", "spk2.scp"):
        (ref / name).unlink()
    score = score_decode(ref, hyp)
    assert "separation" not in score and "has no clean sources" in summary(score)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda ref, hyp: write_audio(hyp / "separated/m-1-0.flac", A[:-3], RATE),
         "m-1-0.flac: has 25597 samples, the mixture has 25600; score against the set that was decoded"),
        (lambda ref, hyp: write_audio(hyp / "separated/m-1-0.flac", A, 8000),
         "m-1-0.flac: has 8000 Hz, the mixture has 16000 Hz; "),
        (lambda ref, hyp: write_audio(hyp / "separated/zz-0.flac", A, RATE), "separated: the clip 'zz' is not in"),
        (lambda ref, hyp: write_audio(hyp / "separated/m.flac", A, RATE),
         "m.flac: is not named <clip>-<number>.flac; "),
        (lambda ref, hyp: (hyp / "separated/m-1-0.flac").write_text("no audio"), "cannot be read as audio"),
        (lambda ref, hyp: (ref / "spk2.scp").write_text(""),
         "spk1.scp: the clip 'm-1' of 2 speakers has 1 clean sources in spk1.scp …; draw the mixtures again"),
        (lambda ref, hyp: (ref / "wav.scp").write_text("m-1 m-1.wav.scp.flac\n"),
         "wav.scp: the clip 'm-2' is not in it"),
        (lambda ref, hyp: os.unlink("m-2.spk2.scp.flac"), "m-2.spk2.scp.flac: no such audio file"),
        (lambda ref, hyp: write_audio("m-2.spk2.scp.flac", A[:9], RATE),
         "has 9 samples, the mixture has 25600; make the"),
    ],
)
@pytest.mark.parametrize("nj", ["1", "2"])
def test_signals_that_cannot_be_compared(separated, capsys, break_it, message, nj):
    ref, hyp = separated
    break_it(ref, hyp)
    with pytest.raises(SystemExit) as e:
        main(["--ref", str(ref), "--hyp", str(hyp), "--nj", nj])
    error = capsys.readouterr().err
    assert e.value.code == 1 and message in error and "Traceback" not in error
    assert not (hyp / "score.json").exists()


def test_a_manifest_without_the_clip(separated, tmp_path):
    ref, hyp = separated
    for name in ("spk1.scp", "spk2.scp"):
        (ref / name).unlink()
    first = (tmp_path / "mixtures.jsonl").read_text().splitlines(keepends=True)[0]
    (ref / "mixtures.jsonl").write_text(first)
    with pytest.raises(UserError, match="mixtures.jsonl: the clip 'm-2' is not in it; draw the mixtures again"):
        score_decode(ref, hyp)


def test_scoring_signals_needs_no_torch(separated):
    import subprocess
    import sys

    ref, hyp = separated
    (hyp / "hyp.rttm").write_text("SPEAKER m-1 1 0 1 <NA> <NA> 0 <NA> <NA>\n")
    np.savez(hyp / "activity.npz", **{"m-1": np.zeros((9, 2), np.float16)})
    record = json.loads((hyp / "decode.json").read_text())
    (hyp / "decode.json").write_text(json.dumps({**record, "frame_shift": 0.04}))
    code = ("import sys; from espnet_mt_llm.bin.score_decode import main; main(sys.argv[1:]); "
            "sys.exit(3 if {'torch', 'espnet2'} & set(sys.modules) else 0)")
    done = subprocess.run([sys.executable, "-c", code, "--ref", ref, "--hyp", hyp, "--sweep_diarization", "true"],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
