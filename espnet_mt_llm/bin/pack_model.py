"""Pack a trained model into one archive that decodes anywhere, beside the published checkpoints that it names."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Write the archive and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True, help="output directory of the training")
    parser.add_argument("--out", required=True, help="the zip to write")
    parser.add_argument("--weights", default="", help="file of the weights; default: the best there are")
    args = parser.parse_args(argv)

    from espnet_mt_llm.inference.pack import needed, pack

    names = pack(args.model_dir, args.out, args.weights)
    print(f"{args.out} ({Path(args.out).stat().st_size / 1e6:.1f} MB) holds:", *names, sep="\n  ")
    for path in needed(args.model_dir):
        print(f"it needs beside it, under this name: {path}")


if __name__ == "__main__":
    main()
