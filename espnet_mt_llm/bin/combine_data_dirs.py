"""Put several data directories together: `<target> <source> <source>…`."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.operations import combine


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="data directory to write")
    parser.add_argument("source", nargs="+", help="data directories")
    parser.add_argument("--extra-files", "--extra_files", help="for Kaldi's sake: known files are all treated")
    parser.add_argument("--skip-fix", "--skip_fix", help="for Kaldi's sake: the result is always sorted")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    combine(args.target, args.source)


if __name__ == "__main__":
    main()
