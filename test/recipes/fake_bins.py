"""Stand-ins for the commands that the stage driver runs: they write what the next stage looks for."""

import shutil
import sys
import time
from pathlib import Path


def options() -> dict:
    """Return the command line's ``--name value`` pairs."""
    words = sys.argv[2:]
    return {name[2:]: value for name, value in zip(words, words[1:]) if name.startswith("--")}


def write(path: Path, text: str = "made\n") -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def draw_mixtures(data_dir: str, **_: str) -> None:
    """Make three sets from data/train, the last of them streamed."""
    for name, wav in [("dev_sim", "d1 d1.wav\n"), ("test_2mix", "t1 t1.wav\n"), ("train_sim", "m1 python render |\n")]:
        write(Path(data_dir, name, "wav.scp"), wav)
        write(Path(data_dir, name, "text"), Path(data_dir, "train", "text").read_text())
        write(Path(data_dir, name, "mixtures.jsonl"), "{}\n")


def write_mixtures(data_dir: str, job: str = "all", **_: str) -> None:
    """Make the audio of one job."""
    write(Path(data_dir, "audio", f"{job}.wav"))


def make_clips(data_dir: str, out_dir: str, **_: str) -> None:
    """Derive the supervision."""
    write(Path(out_dir, "supervision"), Path(data_dir, "text").read_text())


def make_token_list(out: str, **_: str) -> None:
    """Make the token list."""
    write(Path(out))


def train_sctc(output_dir: str, config: str, **_: str) -> None:
    """Count epochs in a checkpoint, as a trainer that resumes does; the configuration says what goes wrong."""
    checkpoint = Path(output_dir, "checkpoint")
    asked = Path(config).read_text()
    for _epoch in range(3):
        write(checkpoint, (checkpoint.read_text() if checkpoint.exists() else "") + "epoch\n")
        if "fail" in asked:
            print("loss is not finite")
            sys.exit(3)
        if "slow" in asked and not Path("go").exists():
            time.sleep(60)


def decode_sctc(out_dir: str, job: str, **_: str) -> None:
    """Decode one part."""
    write(Path(out_dir, f"hyp.{job}"))


def merge_decode(out_dir: str, **_: str) -> None:
    """Put the parts together."""
    for name in ("hyp.seglst.json", "utt2num_spk", "decode.json"):
        write(Path(out_dir, name))


def score_decode(hyp: str, **_: str) -> None:
    """Score."""
    write(Path(hyp, "score.json"))


def make_results(out_readme: str, out_json: str, out_html: str, **_: str) -> None:
    """Make the page."""
    for name in (out_readme, out_json, out_html):
        write(Path(name))


def show_results(page: str, **_: str) -> None:
    """Say where the page is."""
    print(f"see {page}")


def pack_model(model_dir: str, out: str) -> None:
    """Pack."""
    shutil.copy(Path(model_dir, "checkpoint"), out)


if __name__ == "__main__":
    name = sys.argv[1].rsplit(".", 1)[1]
    with open("calls", "a") as f:
        f.write(f"{name} {' '.join(sys.argv[2:])}\n")
    if name in globals():
        globals()[name](**options())
