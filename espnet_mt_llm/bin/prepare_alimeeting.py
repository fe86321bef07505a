"""Make data directories from AliMeeting: {train,eval,test,test2023}_{far,near}, of the parts that are there."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import alimeeting


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder of Train_Ali_far, Train_Ali_near, Eval_Ali, Test_Ali")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--channel", type=int, default=1, help="which one of the far array's eight, from 1")
    parser.add_argument("--profile", choices=alimeeting.PROFILES, default="zh_char", help="how text is normalised")
    parser.add_argument("--fields", nargs="+", choices=alimeeting.FIELDS, default=alimeeting.FIELDS,
                        help="the array (far), the headsets (near)")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="two meetings a set only")
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without the sessions of problems.tsv")
    args = parser.parse_args()
    alimeeting.prepare(args.root, args.out, channel=args.channel, profile=args.profile, fields=args.fields, nj=args.nj,
                       debug=args.debug, allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
