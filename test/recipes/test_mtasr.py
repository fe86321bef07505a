"""The stage driver's promises, on a recipe of small scripts: order, skipping, resuming, messages, exit codes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DATA_SH = """#!/usr/bin/env bash
set -euo pipefail
datadir=data
lang=en
nj=1
debug=false
colour=red
. utils/parse_options.sh
echo "data.sh --lang ${lang} --debug ${debug} --colour ${colour}" >>calls
if [ -e break_data ]; then mkdir -p "${datadir}/train"; echo "a a.wav" >"${datadir}/train/wav.scp"; exit 4; fi
mkdir -p "${datadir}/train"
echo "a a.wav" >"${datadir}/train/wav.scp"
echo "a hello" >"${datadir}/train/text"
"""
RUN_SH = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
./mtasr.sh --train_set train_sim --valid_set dev_sim --test_sets "test_2mix" --nj 2 --python ./python "$@"
"""
STAGES = ["data", "simulate", "clips", "tokens", "train", "decode", "score", "results", "pack"]


class Recipe:
    """A recipe in a temporary repository, whose Python commands are those of fake_bins.py."""

    def __init__(self, root: Path) -> None:
        """Use the recipe below ``root``."""
        self.path = root / "egs2/fake/mtasr1"
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def make(self, repository: Path, root: Path) -> None:
        """Make the recipe."""
        self.path.mkdir(parents=True)
        for link, target in [("espnet_mt_llm", "espnet_mt_llm"), ("egs2/TEMPLATE", "egs2/TEMPLATE")]:
            (root / link).symlink_to(repository / target)
        (self.path / "utils").mkdir()
        for name in ("run.py", "slurm.py", "parse_options.sh"):
            (self.path / "utils" / name).symlink_to(repository / "utils" / name)
        for name in ("mtasr.sh", "data_stages.sh", "path.sh", "cmd.sh"):
            (self.path / name).symlink_to(Path("../../TEMPLATE/mtasr1") / name)
        fakes = Path(__file__).parent / "fake_bins.py"
        self.script("utils/validate_data_dir.sh", '#!/bin/sh\necho "validate $*" >>calls\n')
        self.script("local/data.sh", DATA_SH)
        self.script("run.sh", RUN_SH)
        self.script("python", f'#!/bin/sh\ncase $* in *.check_stamp*) exec {sys.executable} "$@" ;; esac\n'
                              f'shift\nexec {sys.executable} -S {fakes} "$@"\n')
        self.write("db.sh", "CORPUS=${CORPUS:-downloads/corpus}\n")
        self.write("conf/simulate.yaml", "train_sim: {}\ndev_sim: {}\ntest_2mix: {}\n")
        self.write("conf/sctc/01_sctc_first.yaml", "lr: 1\n")
        self.write("conf/decode_sctc.yaml", "beam: 1\n")
        self.write("conf/slurm.conf", (repository / "egs2/TEMPLATE/mtasr1/conf/slurm.conf").read_text())

    def write(self, name: str, text: str) -> None:
        """Write one of the recipe's files."""
        (self.path / name).parent.mkdir(exist_ok=True, parents=True)
        (self.path / name).write_text(text)

    def script(self, name: str, text: str) -> None:
        """Write an executable file."""
        self.write(name, text)
        (self.path / name).chmod(0o755)

    def start(self, *words: str, **variables: str) -> subprocess.Popen:
        """Start run.sh."""
        return subprocess.Popen([self.path / "run.sh", *words], cwd="/", env={**self.environment, **variables},
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words: str, code: int = 0, **variables: str) -> str:
        """Run run.sh to its end; return what it printed."""
        process = self.start(*words, **variables)
        out, err = process.communicate(timeout=100)
        assert process.returncode == code, out + err
        return out + err

    def calls(self) -> list:
        """Return the commands since the last call of this method: their first words."""
        path = self.path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        self.lines = lines
        return [line.split()[0] for line in lines]


@pytest.fixture
def recipe(repository: Path, tmp_path: Path) -> Recipe:
    """A recipe in which nothing has run."""
    made = Recipe(tmp_path)
    made.make(repository, tmp_path)
    return made


@pytest.fixture(scope="module")
def finished_root(repository: Path, tmp_path_factory) -> Path:
    """A repository with a recipe in which everything has run, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    made = Recipe(root)
    made.make(repository, root)
    made.run()
    made.calls()
    return root


@pytest.fixture
def finished(finished_root: Path, tmp_path: Path) -> Recipe:
    """A recipe in which everything has run."""
    shutil.copytree(finished_root, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Recipe(tmp_path)


def test_all_stages_run_once_in_order_and_are_skipped_afterwards(recipe: Recipe) -> None:
    shown = recipe.run()
    assert recipe.calls() == ["data.sh", "validate", "draw_mixtures", *["write_mixtures"] * 4, "validate",
                              *["make_clips", "make_clips", "merge_clips"] * 3, "show_statistics",
                              "make_token_list", "train_sctc",
                              "decode_sctc", "decode_sctc", "merge_decode",
                              "score_decode", "make_results", "pack_model"]
    assert not (recipe.path / "data/train_sim/audio").exists(), "a streamed set has no audio"
    for stage in STAGES:
        assert f"({stage}): done in" in shown
    again = recipe.run()
    assert f"see {recipe.path}/exp/results.html" in again
    assert recipe.calls() == ["show_results"]
    for stage in STAGES:
        assert again.count(f"({stage}): nothing changed, skipped") == 1


@pytest.mark.parametrize("words, names", [
    (("--stop_stage", "2"), ["data", "simulate"]),
    (("--stage", "clips", "--stop_stage", "tokens"), ["clips", "enroll", "tokens"]),
    (("--stage", "6", "--stop_stage", "train"), ["train"]),
    (("--stage", "score"), ["score", "results", "pack"]),
    (("--skip_train", "true", "--skip_eval", "true", "--skip_packing", "true"),
     ["data", "simulate", "clips", "enroll", "tokens"]),
    (("--skip_data_prep", "true", "--skip_eval", "true"), ["train", "pack"]),
])
def test_stages_are_chosen_by_name_number_or_skipped(recipe: Recipe, words: tuple, names: list) -> None:
    shown = recipe.run("--dry_run", "true", *words)
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("# stage")] == names


def test_dry_run_prints_the_commands_and_makes_nothing(recipe: Recipe) -> None:
    before = sorted(recipe.path.rglob("*"))
    shown = recipe.run("--dry_run", "true")
    assert sorted(recipe.path.rglob("*")) == before
    for part in ("# stage 1: data", "local/data.sh",
                 "bin.make_clips --data_dir data/train_sim --out_dir dump/train_sim",
                 "utils/run.py --gpu 0", "bin.train_sctc --config conf/sctc/01_sctc_first.yaml", "bin.decode_sctc",
                 "bin.score_decode --ref dump/test_2mix --hyp exp/sctc/01_sctc_first/decode_sctc/test_2mix --unit word",
                 "bin.make_results", "bin.pack_model"):
        assert part in shown


def test_an_earlier_step_can_be_decoded_and_scored(finished: Recipe) -> None:
    finished.write("conf/sctc/02_sctc_second.yaml", "lr: 1\n")
    finished.run("--inference_step", "01", "--test_sets", "dev_sim")
    calls = finished.calls()
    assert calls[:1] == ["train_sctc"] and "make_results" in calls
    assert "--model_dir exp/sctc/01_sctc_first " in finished.lines[calls.index("decode_sctc")]
    assert "--inference_config conf/decode_sctc.yaml --test_sets dev_sim --inference_step 01" in (
        finished.lines[calls.index("merge_decode")])
    assert (finished.path / "exp/sctc/01_sctc_first/decode_sctc/dev_sim/score.json").exists()
    assert not (finished.path / "exp/sctc/02_sctc_second/decode_sctc").exists()


def test_a_changed_configuration_trains_anew_and_keeps_the_old_model(finished: Recipe) -> None:
    finished.write("conf/sctc/01_sctc_first.yaml", "lr: 2\n")
    shown = finished.run()
    # The scores are what they were, so the page stays.
    assert finished.calls() == ["train_sctc", "decode_sctc", "decode_sctc", "merge_decode", "score_decode",
                                "show_results", "pack_model"]
    assert "conf/sctc/01_sctc_first.yaml changed, runs again" in shown
    assert (finished.path / "exp/sctc/01_sctc_first/checkpoint").read_text() == "epoch\n" * 3
    assert [p.read_text() for p in finished.path.glob("exp/.old/*/sctc/01_sctc_first/checkpoint")] == ["epoch\n" * 3]
    finished.write("conf/sctc/01_sctc_first.yaml", "lr: 3\n")
    finished.run("--stop_stage", "train", "--on_change", "resume")
    assert (finished.path / "exp/sctc/01_sctc_first/checkpoint").read_text() == "epoch\n" * 6


@pytest.mark.parametrize("conf", ["registration_conf: {shuffle_names: true, names: conf/names}\n",
                                  "registration_conf:\n  names: conf/names\n"])
def test_another_list_of_names_trains_anew(recipe: Recipe, conf: str) -> None:
    recipe.write("conf/sctc/01_sctc_first.yaml", conf)
    recipe.write("conf/names", "Ann\n")
    for names, trains in (("Ann\n", 1), ("Ann\n", 0), ("Ann\nBob\n", 1)):
        recipe.write("conf/names", names)
        recipe.run("--stop_stage", "train", "--on_change", "restart")
        assert recipe.calls().count("train_sctc") == trains


def test_a_later_step_follows_the_earlier_one(recipe: Recipe) -> None:
    recipe.write("conf/sctc/02_sctc_second.yaml", "lr: 1\n")
    recipe.run("--stop_stage", "decode")
    decode = recipe.calls().index("decode_sctc")
    assert "--model_dir exp/sctc/02_sctc_second" in recipe.lines[decode]
    recipe.write("conf/sctc/02_sctc_second.yaml", "lr: 2\n")
    recipe.run("--stop_stage", "train")
    assert recipe.calls() == ["train_sctc"]
    recipe.write("conf/sctc/01_sctc_first.yaml", "lr: 2\n")
    recipe.run("--stop_stage", "train")
    assert recipe.calls() == ["train_sctc", "train_sctc"]


def test_changed_data_run_everything_behind_them(finished: Recipe) -> None:
    finished.script("local/data.sh", DATA_SH.replace("hello", "bye"))
    finished.run()
    calls = finished.calls()
    assert calls[0] == "data.sh" and calls.count("make_clips") == 6 and calls[-1] == "pack_model"
    finished.run(CORPUS="/elsewhere")
    assert finished.calls()[:2] == ["data.sh", "validate"], "another corpus in the environment is another input"


def test_more_jobs_or_another_backend_change_nothing(finished: Recipe) -> None:
    finished.run("--nj", "3", "--inference_nj", "1", "--num_threads", "1")
    assert finished.calls() == ["show_results"]


def test_a_data_directory_made_by_hand_is_checked(recipe: Recipe) -> None:
    for name in ("train_sim", "dev_sim", "test_2mix"):
        recipe.write(f"data/{name}/wav.scp", "a a.wav\n")
        recipe.write(f"data/{name}/text", "a hello\n")
    recipe.run("--stage", "clips", "--stop_stage", "train")
    assert recipe.calls()[:4] == ["validate", "make_clips", "make_clips", "merge_clips"]


def test_force_runs_again(finished: Recipe) -> None:
    finished.run("--stage", "tokens", "--stop_stage", "tokens", "--force", "true")
    assert finished.calls() == ["make_token_list"]


def test_what_was_removed_is_made_again(finished: Recipe) -> None:
    shutil.rmtree(finished.path / "dump/test_2mix")
    shutil.rmtree(finished.path / "exp/sctc/01_sctc_first/decode_sctc")
    shown = finished.run()
    assert finished.calls() == ["make_clips", "make_clips", "merge_clips", "show_statistics",
                                "decode_sctc", "decode_sctc", "merge_decode", "score_decode", "show_results"]
    assert "dump/test_2mix/supervision is missing, runs again" in shown


@pytest.mark.parametrize("stage, needs, maker", [
    ("simulate", "data", "data"), ("clips", "data/train_sim/wav.scp", "simulate"),
    ("tokens", "dump/train_sim/supervision", "clips"),
    ("train", "dump/train_sim/supervision", "clips"), ("decode", "exp/sctc/01_sctc_first", "train"),
    ("score", "exp/sctc/01_sctc_first/decode_sctc/test_2mix/hyp.seglst.json", "decode"),
    ("results", "exp/sctc/01_sctc_first/decode_sctc/test_2mix/score.json", "score"),
    ("pack", "exp/sctc/01_sctc_first", "train"),
])
def test_a_stage_before_its_inputs_names_the_stage_to_run(recipe: Recipe, stage: str, needs: str, maker: str) -> None:
    shown = recipe.run("--stage", stage, code=1)
    assert f"stage {stage} needs {needs}, which is not there; run stage" in shown
    assert f"({maker}) first: ./run.sh --stage {maker} --stop_stage {maker}" in shown
    assert recipe.calls() == []


def test_a_set_that_its_stage_did_not_make(finished: Recipe) -> None:
    shown = finished.run("--stage", "clips", "--train_set", "train_far", "--debug", "false", code=1)
    assert "stage clips needs data/train_far/wav.scp; stage 1 (data) has run and did not make it" in shown
    assert "./run.sh --stage data --stop_stage data --force true" in shown
    there = shown.partition("--train_set, --valid_set and --test_sets: ")[2].split()
    assert {"train", "train_sim", "dev_sim", "test_2mix"} <= set(there) and finished.calls() == []


def test_mixtures_that_cannot_be_made_are_left_out_where_that_is_allowed(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "simulate", "--allow_problems", "true")
    calls = recipe.calls()
    assert calls.count("write_mixtures") == 6
    assert sum("--leave_out_missing true" in line for line in recipe.lines) == 2


def test_a_stage_that_stopped_half_way_is_not_used_and_runs_again(recipe: Recipe) -> None:
    (recipe.path / "break_data").touch()
    shown = recipe.run(code=4)
    assert "stopped in stage data (exit code 4)" in shown
    (recipe.path / "conf/simulate.yaml").unlink()
    shown = recipe.run("--stage", "clips", "--train_set", "train", code=1)
    assert "data/train/wav.scp, which is not finished; run stage 1 (data) first" in shown
    (recipe.path / "break_data").unlink()
    shown = recipe.run("--stop_stage", "data")
    assert "data: was stopped before it ended, runs again" in shown


def test_a_failing_training_propagates_its_code_and_shows_its_log(recipe: Recipe) -> None:
    recipe.write("conf/sctc/01_sctc_first.yaml", "fail: 1\n")
    shown = recipe.run(code=3)
    assert "loss is not finite" in shown and "--pick failed" in shown
    assert "stopped in stage train (exit code 3)" in shown
    assert "decode_sctc" not in recipe.calls()


def test_a_killed_training_takes_its_job_along_and_resumes(recipe: Recipe) -> None:
    recipe.write("conf/sctc/01_sctc_first.yaml", "slow: 1\n")
    process = recipe.start()
    checkpoint = recipe.path / "exp/sctc/01_sctc_first/checkpoint"
    deadline = time.monotonic() + 30
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # run.sh is bash that waits for mtasr.sh: the driver itself is its child.
    driver = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(driver, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    log = recipe.path / "exp/sctc/01_sctc_first/train.log"
    while "# Ended (code 143)" not in log.read_text():
        assert time.monotonic() < deadline, "the training outlived its driver"
        time.sleep(0.05)
    (recipe.path / "go").touch()
    shown = recipe.run("--stage", "train", "--stop_stage", "train")
    assert "was stopped before it ended, runs again" in shown
    assert checkpoint.read_text() == "epoch\n" * 4, "one epoch before, three after: the checkpoint was kept"


def test_debug_and_another_language_have_their_own_files(recipe: Recipe) -> None:
    recipe.run("--debug", "true", "--lang", "zh", "--local_data_opts", "--colour blue")
    calls = recipe.calls()
    assert "data.sh --lang zh --debug true --colour blue" == recipe.lines[0]
    assert "--token_type char" in recipe.lines[calls.index("make_token_list")]
    assert "--unit char --profile zh_char" in recipe.lines[calls.index("score_decode")]
    assert "--debug true" in recipe.lines[calls.index("train_sctc")]
    for name in ("data/train", "dump/train_sim", "exp/results.html", "README.md", "results.json"):
        assert (recipe.path / "debug/zh" / name).exists()
    assert not any((recipe.path / name).exists() for name in ("data", "dump", "exp", "README.md"))
    assert "--stage data --stop_stage data --debug true --lang zh" in \
        recipe.run("--debug", "true", "--lang", "zh", "--stage", "simulate", "--datadir", "other", code=1)


@pytest.mark.parametrize("words, message", [
    (["--stagee", "3"], "unknown option --stagee; did you mean --stage?"),
    (["--stage", "trian"], "--stage trian: no such stage; stages: data simulate"),
    (["--stage", "train", "--stop_stage", "data"], "--stage train comes after --stop_stage data"),
    (["--stage", "11"], "stages are 1 to 10"),
    (["--system", "dual"], "systems of this recipe: sctc/"),
    (["--system", "sctx", "--stop_stage", "clips"], "systems of this recipe: sctc/"),
    (["--simulate_config", "conf/simulate_srd.yaml"], "--simulate_config conf/simulate_srd.yaml: no such file"),
    (["--nj", "0"], "--nj 0: expected a whole number, 1 or more"),
    (["--inference_nj", "1.5"], "--inference_nj 1.5: expected a whole number, 1 or more"),
    (["--max_clip", "-3"], "--max_clip -3: expected seconds, 1 or more"),
    (["--ngpu", "x"], "--ngpu x: expected a whole number"),
    (["--unit", "syllable"], "--unit syllable: use word, char or mixed"),
    (["--inference_step", "03"], "no such step of sctc, or several; steps: 01_sctc_first.yaml"),
    (["--debug", "yes"], "--debug yes: expected true or false"),
    (["--on_change", "ask"], "use restart or resume"),
    (["--cmd_backend", "sge"], "cmd_backend=sge is not known"),
    (["--inference_config", "conf/none.yaml", "--stage", "score", "--stop_stage", "score"], "needs exp/sctc"),
    (["extra"], "'extra' is no option"),
    (["--train_set", ""], "--train_set is not set"),
])
def test_mistakes_are_explained(recipe: Recipe, words: list, message: str) -> None:
    assert message in recipe.run(*words, code=1)
    assert recipe.calls() == []


def test_a_step_of_an_unknown_task(recipe: Recipe) -> None:
    recipe.write("conf/sctc/02_nothing_here.yaml", "")
    assert "no task is called so; name it NN_<task>_<what>.yaml, tasks:" in recipe.run(code=1)


def test_through_slurm(recipe: Recipe, slurm: dict) -> None:
    recipe.run("--cmd_backend", "slurm", **slurm)
    assert recipe.calls().count("write_mixtures") == 4
    assert (recipe.path / "exp/sctc/01_sctc_first/q/train.sh").exists()
    recipe.write("conf/sctc/01_sctc_first.yaml", "fail: 1\n")
    shown = recipe.run(code=3, cmd_backend="slurm", **slurm)
    assert "loss is not finite" in shown and "utils/slurm.py --pick failed" in shown


def test_a_training_step_may_name_its_own_sets(recipe: Recipe) -> None:
    recipe.write("conf/sctc/01_sctc_first.yaml", "train_set: train  # one talker at a time\nlr: 1\n")
    recipe.write("conf/sctc/02_sctc_second.yaml", "lr: 1\n")
    recipe.run("--stop_stage", "train")
    assert recipe.calls().count("merge_clips") == 4
    trained = [line for line in recipe.lines if line.startswith("train_sctc")]
    assert ["--train_dir dump/train " in line for line in trained] == [True, False]
    assert all("--valid_dir dump/dev_sim " in line for line in trained)


def test_mixtures_are_clips_already_whatever_the_policy_of_sessions(recipe: Recipe) -> None:
    recipe.run("--stop_stage", "clips", "--clip_policy", "utterance_group", "--test_sets", "train")
    recipe.calls()
    policies = {line.split("--data_dir data/")[1].split()[0]: line.split("--policy ")[1].split()[0]
                for line in recipe.lines if line.startswith("make_clips")}
    assert policies == {"train_sim": "whole", "dev_sim": "whole", "train": "utterance_group"}


def test_further_options_of_cutting_are_for_recorded_sessions_and_a_change_cuts_them_again(recipe: Recipe) -> None:
    options = ("--stop_stage", "clips", "--clip_policy", "random_40_50", "--test_sets", "train")
    recipe.run(*options)
    recipe.calls()
    shown = recipe.run(*options, "--clip_args", "--min_clip 30 --seed 1")
    assert recipe.calls() == ["make_clips", "make_clips", "merge_clips", "show_statistics"]
    assert all(line.endswith("--min_clip 30 --seed 1") and "data/train " in line for line in recipe.lines[:2])
    assert "clips.train: its options changed, runs again" in shown
    recipe.run(*options, "--clip_args", "--min_clip 30 --seed 1")
    assert recipe.calls() == []


def test_manifests_that_the_first_stage_made_are_written_by_the_second(recipe: Recipe) -> None:
    (recipe.path / "conf/simulate.yaml").unlink()
    recipe.script("local/data.sh", DATA_SH + 'echo "{}" >"${datadir}/train/mixtures.jsonl"\nmkdir -p "${datadir}/own"\n'
                  'echo "a a.wav" >"${datadir}/own/wav.scp"\n')
    recipe.run("--stop_stage", "simulate")
    assert recipe.calls() == ["data.sh", "validate", *["write_mixtures"] * 2, "validate"]


def test_sets_of_training_steps_are_asked_for_by_training_alone(recipe: Recipe) -> None:
    recipe.write("conf/sctc/01_sctc_first.yaml", "train_set: elsewhere\n")
    recipe.run("--stop_stage", "tokens")
    shown = recipe.run("--stage", "train", code=1)
    assert "stage train needs dump/elsewhere/supervision, which is not there; run stage 3 (clips) first" in shown


def test_another_configuration_of_simulation_is_named_and_has_a_stamp_of_its_own(recipe: Recipe) -> None:
    recipe.write("conf/simulate_more.yaml", "more: {}\n")
    recipe.run("--stop_stage", "simulate")
    shown = recipe.run("--stage", "clips", "--train_set", "more", code=1)
    assert ("data/more/wav.scp, which is not there; run stage 2 (simulate) first: ./run.sh --stage simulate "
            "--stop_stage simulate --simulate_config conf/simulate_more.yaml") in shown
    recipe.calls()
    recipe.run("--stage", "simulate", "--stop_stage", "simulate", "--simulate_config", "conf/simulate_more.yaml")
    assert "--config conf/simulate_more.yaml" in " ".join(recipe.calls() and recipe.lines)
    recipe.run("--stage", "simulate", "--stop_stage", "simulate")
    assert recipe.calls() == [], "the first configuration has not changed"
