"""Copy a data directory, and rename its utterances, speakers or recordings by a prefix or suffix."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.operations import copy


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="data directory")
    parser.add_argument("target", help="data directory to write")
    for what in ("utt-prefix", "spk-prefix", "rec-prefix", "utt-suffix", "spk-suffix"):
        parser.add_argument(
            f"--{what}", f"--{what.replace('-', '_')}", default="", help=f"new {what.replace('-', ' ')}"
        )
    parser.add_argument("--validate-opts", default="", help="for Kaldi's sake: the copy is not checked here")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    copy(
        args.source,
        args.target,
        utt_prefix=args.utt_prefix,
        spk_prefix=args.spk_prefix,
        rec_prefix=args.rec_prefix,
        utt_suffix=args.utt_suffix,
        spk_suffix=args.spk_suffix,
    )


if __name__ == "__main__":
    main()
