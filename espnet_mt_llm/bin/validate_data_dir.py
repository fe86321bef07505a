"""Check a data directory: prints every broken rule with file, line and repair; exits with 1 if there is one."""

import argparse

from espnet_mt_llm.common import UserError, command, str2bool
from espnet_mt_llm.datadir.validate import validate


def get_parser() -> argparse.ArgumentParser:
    """Declare the options, ours and (spelled with dashes) those of Kaldi's script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", nargs="+", help="data directory")
    parser.add_argument("--audio", type=str2bool, help="look at audio headers (default: up to 10000 recordings)")
    parser.add_argument("--rate", type=int, help="samples per second of all recordings (default: all the same)")
    parser.add_argument("--no-text", action="store_true", help="no transcripts needed")
    parser.add_argument("--no-wav", action="store_true", help="no wav.scp needed")
    parser.add_argument("--no-spk-sort", action="store_true", help="speakers need not be prefixes of utterance ids")
    parser.add_argument("--no-feats", action="store_true", help="for Kaldi's sake: features are never needed here")
    parser.add_argument("--non-print", action="store_true", help="for Kaldi's sake: any UTF-8 text is allowed here")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    failed = 0
    for data_dir in args.data_dir:
        problems = validate(
            data_dir,
            audio=args.audio,
            rate=args.rate,
            text=not args.no_text,
            wav=not args.no_wav,
            speaker_prefix=not args.no_spk_sort,
        )
        failed += bool(problems)
        for problem in problems:
            print(problem)
        if not problems:
            print(f"{data_dir}: valid")
    if failed:
        raise UserError(f"{failed} of {len(args.data_dir)} data directories are not valid")


if __name__ == "__main__":
    main()
