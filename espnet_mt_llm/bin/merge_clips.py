"""Put together the parts that several jobs of make_clips wrote."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.clips import merge_clips


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out_dir", required=True, help="dump directory of the jobs")
    parser.add_argument("--num_jobs", type=int, required=True, help="how many jobs there were")
    return parser


@command
def main() -> None:
    """Run the command."""
    merge_clips(**vars(get_parser().parse_args()))


if __name__ == "__main__":
    main()
