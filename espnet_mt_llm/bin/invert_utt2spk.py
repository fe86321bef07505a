"""Print spk2utt for utt2spk, or the reverse; reads a file or the standard input."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.lists import read_lines, spk2utt_to_utt2spk, utt2spk_to_spk2utt


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default="-", help="utt2spk, or spk2utt with --inverse")
    parser.add_argument("--inverse", action="store_true", help="from spk2utt to utt2spk")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    convert = spk2utt_to_utt2spk if args.inverse else utt2spk_to_spk2utt
    for line in convert(read_lines(args.file)):
        print(line)


if __name__ == "__main__":
    main()
