"""Convert who-said-what files: RTTM, STM, SegLST (.json), TextGrid (a file, or a folder) and data directories."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.convert import FORMATS, convert


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", nargs="+", required=True, help="files, or data directories")
    parser.add_argument("--output", required=True, help="file, data directory or (TextGrid) folder to write")
    parser.add_argument(
        "--input_format", choices=sorted(FORMATS), help="default: by the suffix; a directory is a data dir"
    )
    parser.add_argument(
        "--output_format", choices=sorted(FORMATS), help="default: by the suffix; no suffix is a data dir"
    )
    parser.add_argument("--wav_scp", help="audio of the sessions; needed to write a data dir")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    count = convert(args.input, args.output, args.input_format, args.output_format, args.wav_scp)
    print(f"{args.output}: {count} segments")


if __name__ == "__main__":
    main()
