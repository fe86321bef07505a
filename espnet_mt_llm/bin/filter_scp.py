"""Print the lines of an scp file whose id is in a list (or, with --exclude, is not)."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.lists import filter_scp, read_lines


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", help="file whose first column is the list of ids")
    parser.add_argument("scp", nargs="?", default="-", help="file to filter (default: standard input)")
    parser.add_argument("--exclude", action="store_true", help="print the other lines")
    parser.add_argument("-f", dest="field", type=int, default=1, help="column of the id, from 1")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    for line in filter_scp(read_lines(args.scp), read_lines(args.ids), exclude=args.exclude, field=args.field):
        print(line)


if __name__ == "__main__":
    main()
