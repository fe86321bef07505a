"""Install the package: a light core for data, simulation and scoring; extras for what needs more."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# A bound stands only where a break is known; the comment says which.
CORE = [
    "kaldiio",
    "meeteval",
    "numpy",
    "pyyaml",
    "scipy",
    "soundfile",
    "tqdm",
]
EXTRAS = {
    # Scores of diarization (DER, JER) and of separated signals (STOI).
    "score": ["pyannote.metrics", "pystoi"],
    "train": [
        # The tasks, the trainer and the E-Branchformer are espnet2's of this release line; others move them.
        "espnet>=202511,<202512",
        # espnet 202511 needs setuptools<74, new torch releases need a newer one: pip finds the newest torch that fits.
        "setuptools<74",
        "torch",
        # espnet2's tasks import it, but espnet does not declare it.
        "torchaudio",
        # Token error rates while training.
        "editdistance",
    ],
    "synth": ["espeakng-loader"],
    # The language model with its adapters.
    "llm": ["peft", "transformers"],
    # The encoders of Whisper and WavLM; the others need nothing more than training.
    "pretrained": ["transformers"],
    # Curves while training runs; without it they are in history.json and on the results page all the same.
    "viz": ["tensorboard"],
    # simplejson: meeteval reads SegLST with it, but declares it for its command line alone.
    # funasr: what the encoders of SenseVoice, CAM++ and ERes2NetV2 are compared with.
    # pandas, textgrid: the published ways of working that benchmarks compare with.
    # pytest 9 renames what pytest-xdist 3.8 groups tests by, so that tests which share a recipe run it twice.
    "test": ["funasr", "hypothesis", "pandas", "pytest<9", "pytest-xdist", "simplejson", "textgrid"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "espnet_mt_llm/__init__.py").read_text(encoding="utf-8"))

setup(
    name="espnet_mt_llm",
    version=VERSION.group(1),
    description="Recipes for multi-talker speech recognition: who said what, when, in overlapping speech",
    packages=find_packages(include=["espnet_mt_llm*"]),
    package_data={"espnet_mt_llm": ["**/*.html", "**/*.js", "**/*.css", "**/*.txt", "**/*.json", "**/*.yaml"]},
    # espnet 202511 pins sentencepiece 0.2.0, which has no wheel for Python 3.13 and does not compile there.
    python_requires=">=3.10,<3.13",
    install_requires=CORE,
    extras_require=EXTRAS,
)
