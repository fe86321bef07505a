"""The speech-LLM systems in the papers' size: what they would run, and that their configurations hold together."""

import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from espnet_mt_llm.common import load_yaml

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ("alimeeting", "aishell4", "aishell5")
STEPS = {
    "dual": ("01_speech_llm_asr", "02_speech_llm_joint", "03_speech_llm_long", "04_speech_llm_real"),
    "speakerlm": ("01_speech_llm_asr", "02_speech_llm_projectors", "03_speech_llm_encoder", "04_speech_llm_all"),
}
MODES = ("decode_speech_llm", "decode_speech_llm_match", "decode_speech_llm_over")
every_config = pytest.mark.parametrize("name", [f"{system}/{step}" for system in STEPS for step in STEPS[system]])


def recipe(corpus: str) -> Path:
    return ROOT / "egs2" / corpus / "mtasr1"


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, value in zip(words, words[1:]) if name.startswith("--")}


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("system", STEPS)
def test_a_dry_run_prints_all_steps_in_order(corpus: str, system: str, tmp_path: Path) -> None:
    """Nothing has to be there: no corpus, no checkpoint, no earlier stage."""
    done = subprocess.run([recipe(corpus) / "run.sh", "--dry_run", "true", "--system", system, "--ngpu", "8",
                           "--expdir", str(tmp_path)], capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    trained = [options(words) for words in commands if "espnet_mt_llm.bin.train_speech_llm" in words]
    assert [o["--config"] for o in trained] == [f"conf/{system}/{step}.yaml" for step in STEPS[system]]
    dump = "dump/40_50" if system == "speakerlm" else "dump"
    for step, o in zip(STEPS[system], trained):
        config = load_yaml(recipe(corpus) / o["--config"])
        sets = dict(re.findall(r"--(train|valid)_set (\S+)", (recipe(corpus) / "run.sh").read_text()))
        for kind in ("train", "valid"):
            assert o[f"--{kind}_dir"] == f"{dump}/{config.get(f'{kind}_set', sets[kind])}"
        assert o["--output_dir"] == f"{tmp_path}/{system}/{step}" and o["--ngpu"] == "8"
        assert "--tokenizer" not in o, "Qwen has its own"
    decoded = [options(words)["--config"] for words in commands if "espnet_mt_llm.bin.decode_speech_llm" in words]
    wanted = MODES if system == "speakerlm" else ("decode_dual",)
    assert list(dict.fromkeys(decoded)) == [f"conf/{name}.yaml" for name in wanted]
    assert not any(tmp_path.iterdir()), "a dry run writes nothing"


@every_config
@pytest.mark.parametrize("corpus", CORPORA[1:])
def test_corpora_differ_in_their_first_training_set_and_size_alone(corpus: str, name: str) -> None:
    own, first = (load_yaml(recipe(c) / f"conf/{name}.yaml") for c in (corpus, CORPORA[0]))
    if name == "dual/04_speech_llm_real":
        # An epoch is once through the clips of the corpus.
        assert (own.pop("num_iters_per_epoch"), first.pop("num_iters_per_epoch")) in ((920, 870), (870, 870))
    if name.endswith("_asr"):
        assert own.pop("train_set") in ("train_near", "train_sim") and first.pop("train_set") == "train_near"
    assert own == first


@every_config
def test_a_configuration_of_the_papers_size(name: str, tmp_path: Path) -> None:
    """All keys are known, all sizes fit each other, no weights are loaded; every step starts from the one before."""
    from espnet_mt_llm.tasks.base import build, merged
    from espnet_mt_llm.tasks.estimate import estimate
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask
    from espnet_mt_llm.text.llm_tokenizer import train_tokenizer
    from espnet_mt_llm.train.optimizers import check_optimizer
    from espnet_mt_llm.train.position_batches import Concatenation
    from espnet_mt_llm.train.registering import Registering

    config = recipe(CORPORA[0]) / f"conf/{name}.yaml"
    result = estimate(config)
    parts = {part.name.split(" ")[0]: part for part in result.parts}
    assert parts["language"].weights == pytest.approx({"dual": 0.5e9, "speakerlm": 7.6e9}[name.split("/")[0]], rel=0.02)
    args: Namespace = SpeechLLMTask.get_parser().parse_args(["--config", str(config)])
    learns = {"encoder": {"encoder", "encoder_lora"}, "adapter,": {"adapter"}, "language": {"llm_lora"}}
    for part, names in learns.items():
        # The row of <SC>, and the adapters of the language model, are trained with it alone.
        assert (parts[part].trained > 0) == bool(names & set(args.train_parts)), part
    assert args.batch_positions >= 2 * result.positions, "at least two clips of 50 s in a batch"
    check_optimizer(args)
    build(Registering, args.registration_conf, "registration_conf", mode="mixed")
    if args.concatenate:
        build(Concatenation, args.concatenate, "concatenate")
    system, step = name.split("/")
    before = STEPS[system][: STEPS[system].index(step)][-1:]
    assert args.init_param == [f"{earlier}/latest.pth" for earlier in before]
    debug = merged(vars(args), args.debug_conf)
    assert debug.keys() == vars(args).keys()
    # The debug size needs no file, and its parts fit each other.
    train_tokenizer(["你好"], tmp_path, "char")
    model = SpeechLLMTask.build_model(Namespace(**{**debug, "tokenizer": str(tmp_path)}))
    assert sum(p.numel() for p in model.parameters()) < 1e6
