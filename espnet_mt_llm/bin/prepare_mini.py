"""Make the mini corpus by speech synthesis: data directories train, dev and test."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import mini


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="downloads/mini", help="the recordings are made in here")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--lang", default="en", help="en or zh")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few utterances only")
    args = parser.parse_args()
    numbers = mini.DEBUG_NUM_UTTERANCES if args.debug else mini.NUM_UTTERANCES
    made = mini.prepare(args.root, args.out, args.lang, numbers, seed=args.seed, nj=args.nj)
    print(f"{args.out}: " + ", ".join(f"{name} {number} utterances" for name, number in made.items()))


if __name__ == "__main__":
    main()
