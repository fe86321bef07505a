"""Repair a data directory in place; what was there is kept in <data_dir>/.backup."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.datadir.fix import fix


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", nargs="+", help="data directory")
    parser.add_argument("--audio", type=str2bool, help="look at audio headers (default: up to 10000 recordings)")
    parser.add_argument("--utt-extra-files", "--utt_extra_files", help="for Kaldi's sake: known files are all treated")
    parser.add_argument("--spk-extra-files", "--spk_extra_files", help="for Kaldi's sake: known files are all treated")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    for data_dir in args.data_dir:
        changes = fix(data_dir, audio=args.audio)
        print(*(f"{data_dir}: {change}" for change in changes or ["nothing to repair"]), sep="\n")


if __name__ == "__main__":
    main()
