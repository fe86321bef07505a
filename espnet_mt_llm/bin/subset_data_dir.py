"""Write a part of a data directory: `[way] <source> <count> <target>`, or `--…-list FILE <source> <target>`."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.operations import subset

WAYS = {
    "first": "the first utterances",
    "last": "the last utterances",
    "shortest": "the shortest utterances",
    "per_spk": "so many utterances of every speaker",
    "speakers": "whole speakers, until there are so many utterances",
    "recordings": "so many whole recordings",
}


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="data directory")
    parser.add_argument(
        "count_and_target", nargs="+", metavar="[count] target", help="how many, and the directory to write"
    )
    ways = parser.add_mutually_exclusive_group()
    for way in WAYS:
        ways.add_argument(f"--{way.replace('_', '-')}", dest="how", action="store_const", const=way, help=WAYS[way])
    for what in ("utt", "spk", "rec"):
        ways.add_argument(f"--{what}-list", f"--{what}_list", help="keep what the first column of this file names")
    return parser


def _count(parser: argparse.ArgumentParser, text: str) -> int:
    if not text.isdigit():
        parser.error(f"the count '{text}' is not a number")
    return int(text)


@command
def main() -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args()
    by_list = args.utt_list or args.spk_list or args.rec_list
    if len(args.count_and_target) != (1 if by_list else 2):
        parser.error("expected <source> <target> with a list, <source> <count> <target> without")
    count = None if by_list else _count(parser, args.count_and_target[0])
    kept = subset(
        args.source,
        args.count_and_target[-1],
        count=count,
        how=args.how or "spread",
        utt_list=args.utt_list,
        spk_list=args.spk_list,
        rec_list=args.rec_list,
    )
    print(f"{args.count_and_target[-1]}: {kept} utterances")


if __name__ == "__main__":
    main()
