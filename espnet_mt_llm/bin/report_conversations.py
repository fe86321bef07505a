"""Print the turn-taking statistics of conversations, real or simulated: turns, pauses and overlaps, a column each."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.simulation.turn_statistics import format_table, read_statistics


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", help="data directories, or RTTM files (*.rttm)")
    parser.add_argument("--max_gap", type=float, default=float("inf"),
                        help="leave out longer pauses and overlaps, in seconds; a simulation leaves out those over 7")
    args = parser.parse_args()
    print(format_table({path: read_statistics(path).limited(args.max_gap).summary() for path in args.paths}))


if __name__ == "__main__":
    main()
