"""Put together the parts that several jobs of make_clips wrote."""

import argparse
from pathlib import Path

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.clips import STATISTICS, merge_clips
from espnet_mt_llm.datadir.statistics import Statistics


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out_dir", required=True, help="dump directory of the jobs")
    parser.add_argument("--num_jobs", type=int, required=True, help="how many jobs there were")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    merge_clips(args.out_dir, args.num_jobs)
    print(f"{args.out_dir}: {Statistics.read(Path(args.out_dir) / STATISTICS)}")


if __name__ == "__main__":
    main()
