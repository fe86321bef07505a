"""Split a data directory into parts of about the same number of utterances."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.operations import split


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="data directory")
    parser.add_argument("parts", type=int, help="how many parts")
    parser.add_argument(
        "--by", default="rec", choices=["rec", "spk", "utt"], help="what stays together (default: %(default)s)"
    )
    parser.add_argument("--per-utt", dest="by", action="store_const", const="utt", help="Kaldi's name of --by utt")
    parser.add_argument("--per-reco", dest="by", action="store_const", const="rec", help="Kaldi's name of --by rec")
    parser.add_argument(
        "--out_dir", help="folder of the parts 1, 2 … (default: <data_dir>/split<parts>reco, …utt or just split<parts>)"
    )
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    print(*split(args.data_dir, args.parts, by=args.by, out=args.out_dir), sep="\n")


if __name__ == "__main__":
    main()
