"""make_results and show_results: README table, results.json, terminal, and errors."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.bin import make_results, show_results
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.statistics import Statistics
from espnet_mt_llm.scoring import results
from espnet_mt_llm.scoring.rows import Row, merge_rows, others_tables, read_rows
from espnet_mt_llm.scoring.score import score_decode
from espnet_mt_llm.scoring.table import BEGIN, END, insert_block, load_scores, markdown

OUT = ("README.md", "results.json", "exp/results.html")


@pytest.fixture
def recipe(decoded, tmp_path, monkeypatch):
    """A recipe directory with one scored set; the working directory is in it, as in run.sh."""
    monkeypatch.chdir(tmp_path)
    score_decode("dump/test", "exp/sctc/01_sctc_train/decode_sctc/test", profile="en_libri", command="python score")
    return tmp_path


def make(*args):
    make_results.main(["--out_readme", OUT[0], "--out_json", OUT[1], "--out_html", OUT[2], *args])


def code_of(call, *args):
    with pytest.raises(SystemExit) as e:
        call(*args)
    return e.value.code


def test_all_outputs(recipe, capsys):
    make()
    shown = capsys.readouterr().out
    assert "14.29" in shown and f"Results page: {recipe / 'exp/results.html'}" in shown
    readme = (recipe / "README.md").read_text()
    line = "| sctc | 01_sctc_train | decode_sctc | test | 1–2 | 3 | 14.29 | 14.29 | 14.29 | 66.67 | 0.0250 |"
    assert line in readme and "1,234,567 parameters" in readme and "commit 0123456789ab" in readme
    assert "python -m espnet_mt_llm.bin.decode_sctc --config conf/decode_sctc.yaml\npython score" in readme
    rows = json.loads((recipe / "results.json").read_text())
    cp = [r for r in rows if r["metric"] == "cpWER"]
    assert [(r["note"], r["value"]) for r in cp] == [
        ("01_sctc_train/decode_sctc", 14.29), ("01_sctc_train/decode_sctc, 1-talker clips", 0.0),
        ("01_sctc_train/decode_sctc, 2-talker clips", 18.18)]
    assert cp[0] == {"system": "sctc", "set": "test", "metric": "cpWER", "value": 14.29, "unit": "%",
                     "commit": "0123456789ab", "note": "01_sctc_train/decode_sctc",
                     "command": "python -m espnet_mt_llm.bin.decode_sctc --config conf/decode_sctc.yaml"}
    assert {r["metric"] for r in rows} >= {"RTF", "talker-count accuracy", "parameters", "WER", "ORC-WER"}


@pytest.fixture
def with_signals(recipe, write):
    """A second set beside the first: with times, swept, and with an (invented) score of separated signals."""
    clips = {"c": [("A", 0.0, 2.0, "one"), ("B", 1.0, 3.0, "two")], "d": [("A", 0.0, 1.0, "one")]}
    ref, hyp = write(recipe, "test_mix", clips, [("c", "0", "one"), ("c", "1", "two"), ("d", "0", "one")],
                     {"c": 2, "d": 1}, system="ume", decode="decode_ume", frame_shift=0.1)
    (hyp / "hyp.rttm").write_text("SPEAKER c 1 0 2 <NA> <NA> 0 <NA> <NA>\nSPEAKER c 1 1 1.5 <NA> <NA> 1 <NA> <NA>\n"
                                  "SPEAKER d 1 0 1 <NA> <NA> 0 <NA> <NA>\n")
    np.savez(hyp / "activity.npz", c=np.ones((30, 2), np.float16))
    score_decode(ref, hyp, profile="en_libri", sweep_diarization=True)
    score = json.loads((hyp / "score.json").read_text())
    for part in (score, *score["by_num_speakers"].values()):
        part["separation"] = {"si_sdr_improvement": 9.876, "sdr_improvement": -10.5, "stoi": 0.8264, "si_sdr": 9.9,
                              "sdr": 10.0, "stoi_mixture": None, "sources": 3, "silent_estimates": 1,
                              "silent_references": 0, "spare_estimates": 0}
    (hyp / "score.json").write_text(json.dumps(score))
    return recipe


def test_columns_of_times_and_signals(with_signals, capsys):
    make()
    shown = capsys.readouterr().out
    readme = (with_signals / "README.md").read_text()
    assert ("| count acc. % | DER % (collar 0) | DER % (collar 0.25) | JER % | trivial DER % | SI-SDRi dB | SDRi dB "
            "| STOI | RTF |") in readme
    # 0.5 of 5 s are missed; everybody always: 2 s too much. JER: (0 + 0.25 + 0) / 3.
    assert "| test_mix | 1–2 | 2 | 0.00 | 0.00 | 0.00 | 100.00 | 10.00 | " in readme
    assert "| 8.33 | 40.00 | 9.88 | -10.50 | 0.826 | 0.0250 |" in readme
    assert "| test | 1–2 | 3 | 14.29 | 14.29 | 14.29 | 66.67 | – | – | – | – | – | – | – | 0.0250 |" in readme
    assert "overlap scored" in shown and "improvement over the mixture" in shown
    rows = {(r["metric"], r["note"]): r for r in json.loads((with_signals / "results.json").read_text())}
    name = "01_sctc_train/decode_ume"
    expected = {"DER (collar 0)": (10.0, "%"), "JER": (8.33, "%"), "trivial DER": (40.0, "%"), "SI-SDRi": (9.88, "dB"),
                "SDRi": (-10.5, "dB"), "STOI": (0.826, ""), "DER, swept on the test set": (60.0, "%")}
    for metric, (value, unit) in expected.items():
        assert (rows[metric, name]["value"], rows[metric, name]["unit"]) == (value, unit)
    assert rows["DER (collar 0)", f"{name}, 1-talker clips"]["value"] == 0.0
    page = (with_signals / "exp/results.html").read_text()
    for words in ("Who spoke when", "trivial", "Separated signals", "STOI of the mixture", "Not a fair result"):
        assert words in page


def test_text_alone_has_no_such_columns(recipe):
    make()
    for name in OUT:
        text = (recipe / name).read_text()
        for word in ("DER", "JER", "SDR", "STOI", "Who spoke when", "Separated signals"):
            assert word not in text, (name, word)


def test_the_clips_stand_in_the_readme(recipe):
    Statistics(segments=4, speakers=10, seconds=160.0, speech=100.0, overlap=25.0).write("dump/train/statistics.json")
    make("--dump", "dump")
    assert "| train | 4 | 0.04 | 40.00 | 2.50 | 25.00 |" in (recipe / "README.md").read_text()


def test_the_same_bytes_twice(recipe):
    make()
    first = [(recipe / name).read_bytes() for name in OUT]
    make()
    assert [(recipe / name).read_bytes() for name in OUT] == first


def test_what_is_outside_of_the_markers_is_kept(recipe):
    before, after = "# Mine\r\n\r\ntext  \n", "\n## After\r\nno newline at the end"
    (recipe / "README.md").write_bytes(f"{before}{BEGIN}\nold\n{END}\n{after}".encode())
    make()
    text = (recipe / "README.md").read_bytes().decode()
    assert text.startswith(before + BEGIN) and text.endswith(f"{END}\n{after}") and "old" not in text


@pytest.mark.parametrize("aside", ["exp/a_sctc", "exp/z_sctc"])
def test_a_model_that_was_set_aside_is_left_out(recipe, aside, caplog):
    """Whether it is found before or after the one that was trained in its place."""
    shutil.copytree(recipe / "exp/sctc", recipe / aside)
    scores = load_scores(recipe / "exp")
    assert scores and all("exp/sctc/" in s["dir"] for s in scores)
    assert f"{aside}/" in caplog.text and "they are left out" in caplog.text
    shutil.rmtree(recipe / "exp/sctc")
    assert [s["dir"].replace(aside, "exp/sctc") for s in load_scores(recipe / "exp")] == [s["dir"] for s in scores]


def test_further_results_have_no_columns_of_others():
    """Systems with the same numbers share a table; what is said of a model stands beside all its decodings."""
    def row(system: str, metric: str, value: float, note: str = "01/greedy", test: str = "t") -> Row:
        return Row(system, test, metric, value, note=note)

    found = others_tables([row("b", "WER", 3.0), row("b", "cpWER", 4.0), row("ume", "DER (collar 0)", 5.0),
                           row("a", "cpWER", 2.0), row("a", "WER", 1.0), row("a", "parameters", 7, "01", ""),
                           row("a", "WER", 8.0, "01/beam"), row("b", "parameters", 9, "01", ""),
                           row("c", "parameters", 6, "02", "")])
    heads = ["system", "note", "set"]
    assert found == [[[*heads, "cpWER", "WER", "parameters", "commit"], ["a", "01/beam", "t", "", "8.0", "7", ""],
                      ["a", "01/greedy", "t", "2.0", "1.0", "7", ""], ["b", "01/greedy", "t", "4.0", "3.0", "9", ""]],
                     [[*heads, "parameters", "commit"], ["c", "02", "", "6", ""]],
                     [[*heads, "DER (collar 0)", "commit"], ["ume", "01/greedy", "t", "5.0", ""]]]


def test_rows_of_other_origin_are_kept_and_shown(recipe):
    other = {"system": "sctc", "set": "test", "metric": "cpWER", "value": 12.5, "unit": "%", "commit": "abc",
             "command": "tools/ablate.sh", "note": "PIT | <ablation>"}
    stale = {"system": "sctc", "set": "test", "metric": "cpWER", "value": 99.0, "note": "01_sctc_train/decode_sctc"}
    beside = {**other, "note": "01_sctc_train/decode_sctc, on a GPU"}
    (recipe / "results.json").write_text(json.dumps([other, beside, stale]))
    make()
    rows = json.loads((recipe / "results.json").read_text())
    assert other in rows and beside in rows
    assert [r["value"] for r in rows if r["note"] == stale["note"] and r["metric"] == "cpWER"] == [14.29]
    readme = (recipe / "README.md").read_text()
    assert "Further results" in readme and "PIT \\| &lt;ablation&gt;" in readme
    assert "PIT | &lt;ablation&gt;" in (recipe / "exp/results.html").read_text()


NOTES = st.sampled_from(["x", "y", "x, 2-talker clips", "x, by session", "x, by session, 2-talker clips"])
ROWS = st.lists(st.builds(Row, *[st.sampled_from("ab")] * 3, st.integers(), note=NOTES), max_size=6,
                unique_by=lambda r: r.key)


@given(ROWS, ROWS)
def test_merging_loses_no_row_but_those_of_what_was_decoded_anew(old, new):
    def decoding(row):
        by_session = ", by session" if "by session" in row.note else ""
        return row.system, row.set, row.note[0] + by_session

    merged = {r.key: r for r in merge_rows(old, new)}
    again = {decoding(r) for r in new}
    assert set(merged) == {r.key for r in old if decoding(r) not in again} | {r.key for r in new}
    assert all(merged[r.key] == r for r in new)
    assert merge_rows(merge_rows(old, new), new) == merge_rows(old, new)


@given(st.text(alphabet="ab\n# é"), st.text(alphabet="ab |", min_size=1))
def test_insert_block_touches_only_its_part(text, block):
    once = insert_block(text, block)
    assert once.startswith(text) and insert_block(once, block) == once
    assert insert_block(insert_block(text, "other"), block) == once


@pytest.mark.parametrize("text", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_markers_that_do_not_fit(recipe, capsys, text):
    (recipe / "README.md").write_text(text)
    assert code_of(make) == 1
    assert "README.md:1: expected one '<!-- results:begin -->'" in capsys.readouterr().err
    # Nothing was written, and the README is as it was.
    assert (recipe / "README.md").read_text() == text and not (recipe / "results.json").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "results.json:1: not valid JSON"),
        ("{}", "a JSON list of rows"),
        ('[{"system":"a"}]', "entry 1 lacks"),
        ('[{"system":"a","set":"b","metric":"c","value":1,"note":null}]', "entry 1: note is None, no string"),
        ('[{"system":5,"set":"b","metric":"c","value":1}]', "entry 1: system is 5, no string"),
        ('[{"system":"a","set":"b","metric":"c","value":1,"notes":"x"}]', "unknown key 'notes'; did you mean 'note'?"),
        ('[{"system":"a","set":"b","metric":"c","value":1},{"system":"a","set":"b","metric":"c","value":2}]',
         "entries 1 and 2 have the same"),
    ],
)
def test_broken_results_json(recipe, capsys, content, message):
    (recipe / "results.json").write_text(content)
    assert code_of(make) == 1
    assert message in capsys.readouterr().err
    assert (recipe / "results.json").read_text() == content


def test_no_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert code_of(show_results.main, []) == 1
    assert "no score.json was found; decode and score first" in capsys.readouterr().err


def test_a_file_that_is_no_score(recipe):
    (recipe / "exp/sctc/01_sctc_train/decode_sctc/test/score.json").write_text("[]")
    with pytest.raises(UserError, match="not a score, or an old one: it lacks system, step, decode; score it again"):
        load_scores("exp")


def test_show_results(recipe, capsys):
    show_results.main([])
    assert "Results page" not in capsys.readouterr().out
    make()
    capsys.readouterr()
    show_results.main([])
    out = capsys.readouterr().out
    assert "cpWER %" in out and out.rstrip().endswith(str(recipe / "exp/results.html"))


def test_numbers_of_different_conventions_never_share_a_table(recipe, write, capsys):
    ref, hyp = write(recipe, "test_zh", {"c": [("A", 0.0, 1.0, "好嗯")]}, [("c", "0", "好")], {"c": 1})
    score_decode(ref, hyp, unit="char", profile="zh_char")
    show_results.main([])
    out = capsys.readouterr().out
    assert out.count("system  step") == 2 and "cpCER %" in out and "cpWER %" in out


def test_rates_above_everything_and_empty_references(recipe, write):
    ref, hyp = write(recipe, "silence", {"c": [("A", 0.0, 1.0, "...")]}, [("c", "0", "word")], {"c": 1})
    score_decode(ref, hyp, profile="en_libri")
    make()
    assert "| silence | 1 | 1 | – | – | – | 100.00 |" in (recipe / "README.md").read_text()


def test_titles_come_from_the_corpus(recipe):
    assert results.recipe_title("egs2/mini/mtasr1") == "mini"


def test_markdown_escapes():
    assert markdown([["a"], ["<b> | \\ x\ny"]]).splitlines()[-1] == "| &lt;b&gt; \\| \\\\ x y |"


def test_rows_read_back(recipe):
    make()
    rows = read_rows("results.json")
    assert merge_rows(rows, []) == rows


def test_full_disk_keeps_what_was_there(recipe, full_disk):
    (recipe / OUT[0]).write_text("# A recipe\n")
    make()
    first = [(recipe / name).read_bytes() for name in OUT]
    options = ("--out_readme", OUT[0], "--out_json", OUT[1], "--out_html", OUT[2])
    for size in (100, 2500):  # the first file meets the limit, and a later one
        full_disk(size, "make_results", *options)
        assert [(recipe / name).read_bytes() for name in OUT] == first
    for name in OUT[1:]:
        (recipe / name).unlink()
    full_disk(2500, "make_results", *options)
    make()
    assert [(recipe / name).read_bytes() for name in OUT] == first
