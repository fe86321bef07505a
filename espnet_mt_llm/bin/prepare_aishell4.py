"""Make data directories from AISHELL-4: train (and train_L, train_M, train_S), dev, test."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import aishell4


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder of train_L, train_M, train_S and test")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--dev_sessions", default="local/dev_sessions.txt",
                        help="the training sessions that make dev, one a line")
    parser.add_argument("--channel", type=int, default=1, help="which one of the array's eight, from 1")
    parser.add_argument("--profile", choices=aishell4.PROFILES, default="zh_char", help="how text is normalised")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="two sessions a set only")
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without the sessions of problems.tsv")
    args = parser.parse_args()
    aishell4.prepare(args.root, args.out, dev_sessions=args.dev_sessions, channel=args.channel, profile=args.profile,
                     nj=args.nj, debug=args.debug, allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
