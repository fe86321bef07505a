"""An invented recipe directory with decoded test sets."""

import json
from pathlib import Path

import pytest

WORDS = "the red ship sails seven green houses near an old town while captain and doctor walk".split()


def write_set(root: Path, name: str, clips: dict, hypotheses: list, counts: dict, system="sctc", decode="decode_sctc",
              **more) -> tuple:
    """Write ``dump/<name>`` and its decode directory; ``clips`` maps clip → [(speaker, start, end, text)]."""
    ref = root / "dump" / name
    hyp = root / "exp" / system / "01_sctc_train" / decode / name
    ref.mkdir(parents=True, exist_ok=True)
    hyp.mkdir(parents=True, exist_ok=True)
    lines = (f"{c} " + json.dumps([dict(zip(("spk", "start", "end", "text"), s)) for s in segments], ensure_ascii=False)
             for c, segments in clips.items())
    (ref / "supervision").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ends = {c: max(end for _, _, end, _ in segments) for c, segments in clips.items()}
    (ref / "utt2dur").write_text("".join(f"{c} {end:.2f}\n" for c, end in ends.items()))
    entries = [{"session_id": c, "speaker": s, "words": w} for c, s, w in hypotheses]
    (hyp / "hyp.seglst.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    (hyp / "utt2num_spk").write_text("".join(f"{c} {n}\n" for c, n in sorted(counts.items())))
    decode_json = {"system": system, "step": "01_sctc_train", "decode": decode, "set": name, "model": "valid.loss.best",
                   "audio_seconds": 12.0, "wall_seconds": 0.3, "batch_size": 4, "device": "cpu", "num_threads": 1,
                   "count": "head", "command": "python -m espnet_mt_llm.bin.decode_sctc --config conf/decode_sctc.yaml",
                   "environment": {"date": "2025-01-31", "commit": "0123456789ab", "machine": "invented"},
                   "parameters": 1234567, "sot_order": "onset", "tie_rule": "speaker", **more}
    (hyp / "decode.json").write_text(json.dumps(decode_json))
    return ref, hyp


@pytest.fixture
def decoded(tmp_path):
    """Three clips of 1, 2 and 2 talkers; the second has a substitution, the third is misrouted to one talker."""
    clips = {
        "c1": [("A", 0.0, 1.0, "the red ship")],
        "c2": [("A", 0.0, 2.0, "seven green houses"), ("B", 1.0, 2.5, "near an old town")],
        "c3": [("B", 0.5, 2.0, "captain and doctor"), ("C", 1.2, 3.0, "walk")],
    }
    hypotheses = [("c1", "0", "the red ship"), ("c2", "0", "seven green house"), ("c2", "1", "near an old town"),
                  ("c3", "0", "captain and doctor")]
    return write_set(tmp_path, "test", clips, hypotheses, {"c1": 1, "c2": 2, "c3": 1})


@pytest.fixture
def write():
    return write_set
