"""Write reco2dur (and utt2dur) of a data directory from the headers of its audio."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.operations import make_reco2dur, make_utt2dur


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="data directory")
    parser.add_argument("--utt2dur", action="store_true", help="write utt2dur instead, from segments where they are")
    for ignored in ("frame-shift", "cmd", "nj", "permissive"):
        parser.add_argument(f"--{ignored}", help="for Kaldi's sake: headers are read here, in one process")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    durations = (make_utt2dur if args.utt2dur else make_reco2dur)(args.data_dir)
    print(f"{len(durations)} durations, {sum(durations.values()) / 3600:.2f} hours")


if __name__ == "__main__":
    main()
