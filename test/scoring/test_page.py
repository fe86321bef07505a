"""The results page: what it holds, that it escapes everything and loads nothing, and how a browser takes it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from espnet_mt_llm.scoring import charts, sessions
from espnet_mt_llm.scoring.page import layers_chart
from espnet_mt_llm.scoring.results import make_results
from espnet_mt_llm.scoring.score import score_decode

EVIL = "<script>alert('x')</script>\"&"


class Checker(HTMLParser):
    """Collect tags and check that they are closed in order."""

    VOID = {"meta", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not self.open or self.open[-1] != "style" else ""


@pytest.fixture
def page(tmp_path, write):
    """A page with everything on it, and with names and words that try to break out."""
    clips = {f"c{i}": [("A", 0.0, 2.0, "seven green houses"), (EVIL, 1.0, 2.5, f"near {EVIL} town")] for i in range(4)}
    hypotheses = [(f"c{i}", "0", " ".join("seven green houses".split()[: 3 - i])) for i in range(3)]
    hypotheses += [("c1", EVIL, f"far {EVIL} town"), ("c2", "7", "a b c d")]
    ref, hyp = write(tmp_path, "test", clips, hypotheses, {"c0": 1, "c1": 2, "c2": 3}, model=EVIL, command=EVIL)
    score_decode(ref, hyp, command=EVIL)
    oracle = write(tmp_path, "test", clips, hypotheses[:4], {f"c{i}": 2 for i in range(4)}, decode="oracle")
    score_decode(*oracle)
    score_decode(*write(tmp_path, "test2", {"d": [("A", 0.0, 1.0, "a")]}, [("d", "0", "a")], {"d": 1}))
    history = [{"epoch": e, "train": {"loss": 50 / e, EVIL: 1.0}, "valid": {"loss": 60 / e, "acc": float("nan")},
                "seconds": 2.0} for e in range(1, 6)]
    (tmp_path / "exp/sctc/01_sctc_train/history.json").write_text(json.dumps(history))
    other = {"system": "sctc", "set": "test", "metric": "cpWER", "value": 12.5, "note": EVIL}
    (tmp_path / "results.json").write_text(json.dumps([other]))
    out = tmp_path / "exp/results.html"
    make_results(tmp_path, tmp_path / "exp", None, tmp_path / "results.json", out)
    return out


def test_what_counts_as_deleted_is_not_shown_as_heard(tmp_path, write):
    clips = {"R1-0000000-0001000": [("A", 0.0, 2.0, "one two")], "R1-0001000-0002000": [("A", 1.0, 2.0, "three four")]}
    said = [("R1-0000000-0001000", "0", "one two"), ("R1-0001000-0002000", "0", "zebra")]
    ref, hyp = write(tmp_path, "test", clips, said, {}, malformed=0, unparsable=["R1-0001000-0002000"])
    assert score_decode(ref, hyp, permutation_unit="session")["metrics"]["cp"]["deletions"] == 2
    make_results(tmp_path, tmp_path / "exp", None, tmp_path / "results.json", tmp_path / "exp/results.html")
    text = (tmp_path / "exp/results.html").read_text()
    assert "three" in text and "zebra" not in text


def test_the_page_is_well_formed_and_complete(page):
    checked = Checker(page.read_text())
    tags = [t for t, _ in checked.tags]
    assert tags.count("svg") == 2  # the loss and the oddly named value; not-a-number has no curve
    for words in ("Results", "Training", "Further results", "Test sets", "How it was made", "The worst session: c3",
                  "The median session", "Talker count, all test sets together", "cpWER", "1,234,567 parameters"):
        assert words in checked.text, words
    anchors = [a["href"][1:] for t, a in checked.tags if t == "a"]
    assert anchors and set(anchors) <= {a.get("id") for _, a in checked.tags}


def test_everything_is_escaped(page):
    text = page.read_text()
    assert "<script" not in text and "alert(&#x27;x&#x27;)" in text
    assert EVIL in Checker(text).text


def test_nothing_is_loaded(page):
    text = page.read_text()
    assert not re.search(r"https?:|//[a-z]|\bsrc=|@import|url\(", text)
    assert [a["href"] for t, a in Checker(text).tags if t == "link"] == ["data:,"]


def test_a_lost_reference_leaves_the_rest_of_the_page(page, tmp_path):
    shutil.rmtree(tmp_path / "dump")
    make_results(tmp_path, tmp_path / "exp", None, None, page)
    text = Checker(page.read_text()).text
    assert "No time lines" in text and "The worst session" not in text and "How it was made" in text


def test_no_history_no_training_section(page, tmp_path):
    (tmp_path / "exp/sctc/01_sctc_train/history.json").unlink()
    make_results(tmp_path, tmp_path / "exp", None, None, page)
    assert not any(a.get("id") == "training" for _, a in Checker(page.read_text()).tags)


def test_timeline_places_segments_by_time():
    reference = [{"speaker": "A", "start_time": 1.0, "end_time": 2.0, "words": "a"},
                 {"speaker": "B", "start_time": 2.0, "end_time": 4.0, "words": "b"}]
    timed = [{"speaker": "0", "start_time": 1.0, "end_time": 3.0, "words": "x"}]
    out = sessions.timeline(reference, timed, [("A", "0"), ("B", None)])
    assert "left:25.00%;width:25.00%" in out and "left:50.00%;width:50.00%" in out and "untimed" not in out
    # Without times a hypothesis is drawn where its reference speaker talks.
    out = sessions.timeline(reference, [{"speaker": "0", "words": "x"}], [("A", None), ("B", "0")])
    assert out.count("left:50.00%;width:50.00%") == 2 and "untimed" in out
    # So is one whose only times are those of the whole clip.
    whole = [{"speaker": "0", "start_time": 0.0, "end_time": 4.0, "words": "x"}]
    out = sessions.timeline(reference, whole, [("A", None), ("B", "0")])
    assert out.count("left:50.00%;width:50.00%") == 2 and "untimed" in out


def test_the_time_line_shows_who_was_heard_when(page, tmp_path):
    hyp = tmp_path / "exp/sctc/01_sctc_train/decode_sctc/test"
    rest = "<NA> <NA> 0 <NA> <NA>\n"
    (hyp / "hyp.rttm").write_text(f"SPEAKER c2 1 0.5 1 {rest}SPEAKER c2 1 2 0.25 {rest}")
    score_decode(tmp_path / "dump/test", hyp)
    make_results(tmp_path, tmp_path / "exp", None, None, page)
    text = page.read_text()
    assert "left:20.00%;width:40.00%" in text and "left:80.00%;width:10.00%" in text
    Checker(text)
    (hyp / "hyp.rttm").unlink()
    make_results(tmp_path, tmp_path / "exp", None, None, page)
    assert "No time lines" in Checker(page.read_text()).text


def test_activity_takes_the_words_of_its_speaker():
    said = [{"speaker": "0", "words": "a"}, {"speaker": "0", "words": "b"}, {"speaker": "1", "words": "c"}]
    heard = [{"speaker": "2", "start_time": 1.0, "end_time": 2.0, "words": ""}]
    shown = sessions.with_activity(said, heard)
    assert [(s["speaker"], s["words"], s["end_time"]) for s in shown] == [
        ("0", "a b", 0.0), ("1", "c", 0.0), ("2", "", 2.0)]
    assert sessions.has_times(shown)


def test_a_chart_of_one_epoch_or_of_a_constant():
    assert "<svg" in charts.line_chart("loss", {"train": [(1.0, 3.0)]})
    assert "<svg" in charts.line_chart("loss", {"train": [(1.0, 0.0), (2.0, 0.0)]})


def test_weights_of_the_layers_of_the_last_epoch_are_drawn(tmp_path):
    path = tmp_path / "layer_weights.json"
    assert layers_chart(path) == []
    path.write_text('{"2": {"separation": [0.4, 0.6]}, "10": {"separation": [0.1, 0.9], "recognition": [0.3, 0.7]}}')
    drawn = str(layers_chart(path)[0])
    assert "after epoch 10" in drawn and "recognition, layer 2: 0.7" in drawn and "layer 2: 0.6" not in drawn
    assert "separation 0.9" in drawn and "key s2" in drawn


def test_in_a_browser(page, tmp_path, skip):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        skip("no Chromium on this machine (Debian: apt install chromium)")
    probe = tmp_path / "probe.html"
    # What the browser makes of the page: elements wider than the page, and whether the style took effect.
    check = ("<script>addEventListener('load',()=>{const d=document,s=d.documentElement;"
             "d.body.dataset.overflow=s.scrollWidth-s.clientWidth;"
             "d.body.dataset.lanes=[...d.querySelectorAll('.seg')].filter(e=>e.offsetWidth>2&&e.offsetHeight>15).length;"
             "d.body.dataset.segments=d.querySelectorAll('.seg').length;"
             "d.body.dataset.chart=d.querySelector('svg').getBoundingClientRect().height>100})</script>")
    probe.write_text(page.read_text().replace("</body>", check + "</body>"))
    for width in (1300, 480):
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--enable-logging=stderr", "--dump-dom", f"--window-size={width},2000",
             f"--user-data-dir={tmp_path / f'profile{width}'}", f"file://{probe}"],
            capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert ":CONSOLE" not in done.stderr, done.stderr
        body = re.search(r"<body[^>]*>", done.stdout).group()
        data = dict(re.findall(r'data-(\w+)="([^"]*)"', body))
        assert data["overflow"] == "0" and data["chart"] == "true", data
        assert data["lanes"] == data["segments"] != "0", data
