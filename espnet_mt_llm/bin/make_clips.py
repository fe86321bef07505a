"""Cut the sessions of a data dir into clips: data/<set> becomes dump/<set>."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.datadir.clip_policies import POLICIES
from espnet_mt_llm.datadir.clips import make_clips


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="session-level data directory")
    parser.add_argument("--out_dir", required=True, help="dump directory to write")
    parser.add_argument("--policy", default="whole", choices=sorted(POLICIES), help="how sessions are cut")
    parser.add_argument("--max_clip", type=float, default=50.0, help="longest clip in seconds")
    parser.add_argument("--min_clip", type=float, default=40.0, help="shortest clip of random_40_50 in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the cuts of random_40_50")
    parser.add_argument("--rate", type=int, default=16000, help="samples per second; other rates are resampled")
    parser.add_argument("--job", type=int, default=1, help="which part to make, from 1")
    parser.add_argument("--num_jobs", type=int, default=1, help="with more than one job, run merge_clips afterwards")
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without recordings that cannot be used; of several jobs, tell merge_clips")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = vars(get_parser().parse_args())
    out = args.pop("out_dir")
    made = make_clips(args.pop("data_dir"), out, **args)
    print(f"{out}: {made}" if args["num_jobs"] == 1 else made)


if __name__ == "__main__":
    main()
