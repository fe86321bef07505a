"""A self-contained model archive: configuration, weights, token list and what the results say of it."""

import zipfile
from pathlib import Path

from espnet_mt_llm.common import Pathlike, at, atomic_open, load_yaml
from espnet_mt_llm.inference.model import find_weights, read_config, read_weights
from espnet_mt_llm.text.llm_tokenizer import load_tokenizer

# Zip entries carry a date; a fixed one gives the same bytes for the same model.
_DATE = (1980, 1, 1, 0, 0, 0)
_TOKENIZER_FILES = (".json", ".txt", ".model", ".jinja")


def needed(model_dir: Pathlike) -> list[str]:
    """Return the published checkpoints that a model reads when it is loaded, and that no package holds."""
    config = load_yaml(Path(model_dir) / "config.yaml")
    confs = [config.get(name) or {} for name in ("llm_conf", "encoder_conf", "speaker_encoder_conf")]
    return [conf["checkpoint"] for conf in confs if isinstance(conf, dict) and conf.get("checkpoint")]


def pack(model_dir: Pathlike, out: Pathlike, weights: str = "") -> list[str]:
    """Write ``out`` (a zip) that decodes without anything else of the experiment; return the names it holds.

    It unpacks to a directory that serves as ``--model_dir``: ``config.yaml``, the weights under their own name,
    ``bpe.model`` or ``tokenizer`` where there is one, and the ``score.json`` files. What config.yaml names as a
    published checkpoint is not packed; it is needed beside it.

    Raises:
        UserError: there is no trained model, its weights cannot be read, or its tokenizer is not there any more.
    """
    model_dir = Path(model_dir)
    best = find_weights(model_dir, weights)
    read_weights(best)
    config = read_config(model_dir)
    files = {"config.yaml": model_dir / "config.yaml", best.name: best}
    if config.get("bpemodel"):
        bpe = Path(config["bpemodel"])
        if not bpe.is_file():
            raise at(bpe, None, f"no such file; {model_dir}/config.yaml names it", "run the stage 'tokens' again")
        files[bpe.name] = bpe
    if config.get("tokenizer"):
        load_tokenizer(config["tokenizer"])
        for path in sorted(Path(config["tokenizer"]).iterdir()):
            if path.suffix in _TOKENIZER_FILES:
                files[f"tokenizer/{path.name}"] = path
    for score in sorted(model_dir.glob("*/*/score.json")):
        files[str(Path("scores") / score.relative_to(model_dir))] = score
    with atomic_open(out, "wb") as f, zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return list(files)
