"""Make data directories of AISHELL-5: {train,dev,eval1,eval2}_far, …_near where there is near audio, and noise."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import aishell5
from espnet_mt_llm.text.normalise import PROFILES


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder that holds train, Dev, Eval1 (or eval_track1) …")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--channel", type=int, default=1, help="far microphone (a door, 1-4) for wav.scp")
    parser.add_argument("--profile", default="zh_char", choices=PROFILES, help="normalisation of transcripts")
    parser.add_argument("--spk_zone_id", help="the baseline's list of seats in train: gives them, or checks them")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few sessions of each set only")
    parser.add_argument("--allow_problems", type=str2bool, default=False, help="go on without what cannot be read")
    args = parser.parse_args()
    aishell5.prepare(args.root, args.out, channel=args.channel, profile=args.profile, spk_zone_id=args.spk_zone_id,
                     nj=args.nj, debug=args.debug, allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
