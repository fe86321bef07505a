"""Make data directories of LibriSpeech: librispeech_<part>, one recording for each utterance."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import librispeech


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder LibriSpeech or its parent")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--parts", nargs="+", help="official names, e.g. train-clean-100 (default: all that are there)")
    parser.add_argument("--trim", type=str2bool, default=True, help="utterances from onset to end, not whole files")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few chapters of each part only")
    parser.add_argument("--allow_problems", type=str2bool, default=False, help="go on without what cannot be read")
    args = parser.parse_args()
    librispeech.prepare(args.root, args.out, parts=args.parts, nj=args.nj, trim=args.trim, debug=args.debug,
                        allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
