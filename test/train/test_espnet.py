"""ESPnet without its heavy parts: a training starts without them, and who asks for them gets them."""

import os
import subprocess
import sys
from pathlib import Path

ASK = """
import torch
from espnet_mt_llm.train.espnet import trainer
from espnet2.layers.create_adapter import create_adapter
try:
    create_adapter(torch.nn.Linear(4, 4), "none", {})
except AssertionError as e:
    print("said:", e)
import espnet2.layers.create_adapter as real
print("said:", sorted(real.create_adapter_fn_table))
from espnet2.main_funcs import calculate_all_attentions
print("said:", calculate_all_attentions.AlignmentModule.__name__)
"""

CHECKS = """
from espnet_mt_llm.train.espnet import AbsTask, trainer
def checked(function):
    return "typeguard" in function.__code__.co_names
from espnet2.layers.utterance_mvn import UtteranceMVN
print("said:", [checked(f) for f in (AbsTask.main.__func__, trainer.Trainer.run.__func__, UtteranceMVN.__init__)])
"""


def said(script: str, repository: Path) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(repository)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    return [line for line in ran.stdout.splitlines() if line.startswith("said: ")]


def test_a_task_does_not_import_what_it_never_calls(repository: Path) -> None:
    heavy = "('espnet2.gan_tts', 'transformers.models')"
    script = f"import sys, espnet_mt_llm.tasks.ume; print('said:', [m for m in sys.modules if m.startswith({heavy})])"
    assert said(script, repository) == ["said: []"]


def test_who_asks_for_them_gets_them(repository: Path) -> None:
    assert said(ASK, repository) == ["said: Adapter none is not supported.", "said: ['houlsby', 'lora']",
                                     "said: AlignmentModule"]


def test_only_the_checks_of_espnet_are_left_out(repository: Path) -> None:
    assert said(CHECKS, repository) == ["said: [False, False, True]"]
