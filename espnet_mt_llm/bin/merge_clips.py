"""Put together the parts that several jobs of make_clips wrote."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.datadir.clips import merge_clips


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out_dir", required=True, help="dump directory of the jobs")
    parser.add_argument("--num_jobs", type=int, required=True, help="how many jobs there were")
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without recordings that cannot be used (listed in problems.tsv)")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    print(f"{args.out_dir}: {merge_clips(args.out_dir, args.num_jobs, args.allow_problems)}")


if __name__ == "__main__":
    main()
