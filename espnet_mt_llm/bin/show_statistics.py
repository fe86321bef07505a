"""Print how long data or dump directories are, how many speakers and how much overlap they have, a line each."""

import argparse
from pathlib import Path

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.statistics import statistics_of, table


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="+", help="data directory (its sessions) or dump directory (its clips)")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    print(table({str(Path(path)): statistics_of(path) for path in args.directory}))


if __name__ == "__main__":
    main()
