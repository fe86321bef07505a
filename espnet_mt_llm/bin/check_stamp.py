"""Tell the stage driver whether a unit of work has to run: prints ``skip|continue|restart <reason>``."""

import argparse
from pathlib import Path

from espnet_mt_llm.cluster.stamp import begin
from espnet_mt_llm.common import command, str2bool


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--done", type=Path, required=True, help="stamp of the finished work")
    parser.add_argument("--plan", default="", help="the commands of the work")
    parser.add_argument("--inputs", nargs="*", default=[], help="files and directories that the work reads")
    parser.add_argument("--outputs", nargs="*", default=[], help="paths that the finished work has made")
    parser.add_argument("--force", type=str2bool, default=False, help="run although nothing changed")
    return parser


@command
def main() -> None:
    """Run the command."""
    print(*begin(**vars(get_parser().parse_args())))


if __name__ == "__main__":
    main()
