"""Make digit strings from the Free Spoken Digit Dataset: data directories train, dev and test."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import fsdd


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the corpus: recordings/*.wav or flac/*.flac below it")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=16000, help="Hz")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few strings only")
    args = parser.parse_args()
    numbers = fsdd.DEBUG_NUM_STRINGS if args.debug else fsdd.NUM_STRINGS
    made = fsdd.prepare(args.root, args.out, numbers, seed=args.seed, rate=args.rate, nj=args.nj)
    print(f"{args.out}: " + ", ".join(f"{name} {number} strings" for name, number in made.items()))


if __name__ == "__main__":
    main()
