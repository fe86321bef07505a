#!/usr/bin/env python3
"""Say what is installed, what is missing and how to get it: packages with versions, GPU, Slurm."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# extra of setup.py → (distribution, module)
PACKAGES = {
    "core": [("numpy", "numpy"), ("scipy", "scipy"), ("soundfile", "soundfile"), ("pyyaml", "yaml"),
             ("kaldiio", "kaldiio"), ("meeteval", "meeteval"), ("tqdm", "tqdm")],
    "train": [("espnet", "espnet2"), ("torch", "torch"), ("torchaudio", "torchaudio"),
              ("editdistance", "editdistance")],
    "synth": [("espeakng-loader", "espeakng_loader")],
    "score": [("pyannote.metrics", "pyannote.metrics"), ("pystoi", "pystoi")],
    "viz": [("tensorboard", "tensorboard")],
    "llm": [("transformers", "transformers"), ("peft", "peft")],
    "pretrained": [("transformers", "transformers")],
    "test": [("pytest", "pytest"), ("pytest-xdist", "xdist"), ("hypothesis", "hypothesis"), ("pandas", "pandas"),
             ("textgrid", "textgrid"), ("simplejson", "simplejson"), ("funasr", "funasr")],
}
REQUIRED = ("core", "train", "synth", "llm")  # what the recipes that come with the toolkit cannot do without


def packages() -> bool:
    """Print one line per package; return whether everything that is required is there."""
    complete = True
    for extra, members in PACKAGES.items():
        missing = []
        for distribution, module in members:
            try:
                found = version(distribution) if _is_there(module) else None
            except PackageNotFoundError:
                found = "unknown version"
            print(f"{extra:11} {distribution:16} {found or 'missing'}")
            if found is None:
                missing.append(distribution)
        if missing:
            complete = complete and extra not in REQUIRED
            option = "" if extra == "core" else f" --extras {extra}"
            print(f"{'':11} → tools/setup.sh{option}")
    return complete


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of
        return False


def gpu() -> str:
    """Describe the GPUs by the driver's own tool: asking torch would take seconds."""
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
                                capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "none (everything runs on the CPU)"
    names = [line.strip() for line in listed.stdout.splitlines() if line.strip()]
    return "; ".join(names) if listed.returncode == 0 and names else "none that the driver shows"


def slurm() -> str:
    """Describe the Slurm cluster that jobs would go to."""
    if not shutil.which("sbatch"):
        return "no sbatch (cmd_backend=local); tools/slurm_testbed.sh install"
    environment = dict(os.environ)
    own = ROOT / "tools" / ".slurm" / "slurm.conf"
    if "SLURM_CONF" not in environment and (own.parent / "slurmctld.pid").exists():
        environment["SLURM_CONF"] = str(own)
    try:
        listed = subprocess.run(["sinfo", "--noheader", "--format=%P %D nodes %t"], capture_output=True, text=True,
                                timeout=5, env=environment)
    except subprocess.TimeoutExpired:
        return "sbatch is there, but no controller answers"
    lines = [line.strip() for line in listed.stdout.splitlines()]
    return "; ".join(lines) if listed.returncode == 0 and lines else "sbatch is there, but no controller answers"


def main() -> None:
    """Print everything; exit with 1 when a required package is missing."""
    print(f"{'python':28} {platform.python_version()} ({sys.executable})")
    complete = packages()
    print(f"{'cores':28} {len(os.sched_getaffinity(0))}")
    print(f"{'gpu':28} {gpu()}")
    print(f"{'slurm':28} {slurm()}")
    sox = shutil.which("sox")
    print(f"{'sox':28} {sox or 'none (noise of another speed in librimix needs it, or soxr); apt-get install sox'}")
    sys.exit(not complete)


if __name__ == "__main__":
    main()
