"""Preparing data starts fast: this room needs neither torch nor espnet2."""

import subprocess
import sys


def test_the_room_imports_no_training_stack(repository):
    modules = [f"espnet_mt_llm.datadir.{f.stem}" for f in (repository / "espnet_mt_llm" / "datadir").glob("*.py")]
    script = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; "
        "heavy = {'torch', 'espnet2', 'transformers', 'scipy', 'meeteval'}; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
