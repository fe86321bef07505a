"""Render one mixture of a manifest as WAV to the standard output: what a pipe in wav.scp runs."""

import argparse
import sys

from espnet_mt_llm.common import UserError, command, nearest
from espnet_mt_llm.simulation.manifest import Manifest
from espnet_mt_llm.simulation.write import render_wav


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="mixtures.jsonl")
    parser.add_argument("--id", required=True, help="the mixture")
    parser.add_argument("--part", default="wav", help="wav (the mixture), spk1, spk2 …, noise1")
    args = parser.parse_args()
    manifest = Manifest(args.manifest)
    if args.id not in manifest:
        raise UserError(f"{args.manifest}: no mixture '{args.id}'; {nearest(args.id, list(manifest)[:1000])}")
    sys.stdout.buffer.write(render_wav(manifest[args.id], args.part))


if __name__ == "__main__":
    main()
