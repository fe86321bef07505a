"""Make data directories of AISHELL-2: aishell2_train, aishell2_dev and aishell2_test, of what is there."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import aishell2
from espnet_mt_llm.text.normalise import PROFILES


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder that holds iOS, AISHELL-2 or AISHELL-DEV-TEST-SET")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--profile", default="zh_char", choices=PROFILES, help="normalisation of transcripts")
    parser.add_argument("--trim", type=str2bool, default=True, help="utterances from onset to end, not whole files")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few speakers of each set only")
    parser.add_argument("--allow_problems", type=str2bool, default=False, help="go on without what cannot be read")
    args = parser.parse_args()
    aishell2.prepare(args.root, args.out, profile=args.profile, nj=args.nj, trim=args.trim, debug=args.debug,
                     allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
