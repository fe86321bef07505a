"""Split an scp file: `<scp> <part 1> <part 2>…`, or `-j <parts> <job> <scp> [<part>]` for one of them."""

import argparse

from espnet_mt_llm.common import atomic_open, command
from espnet_mt_llm.datadir.lists import read_lines, split_scp


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scp", help="file to split, - for standard input")
    parser.add_argument("out", nargs="*", help="files to write")
    parser.add_argument(
        "-j", dest="job", nargs=2, type=int, metavar=("PARTS", "JOB"), help="write one part, JOB counts from 0"
    )
    parser.add_argument("--one-based", "--one_based", action="store_true", help="JOB counts from 1")
    parser.add_argument("--utt2spk", help="keep the utterances of a speaker together")
    return parser


@command
def main() -> None:
    """Run the command."""
    parser = get_parser()
    args = parser.parse_args()
    parts = args.job[0] if args.job else len(args.out)
    if not parts or (args.job and len(args.out) > 1):
        parser.error("expected <scp> <part 1> <part 2>…, or -j <parts> <job> <scp> [<part>]")
    pieces = split_scp(list(read_lines(args.scp)), parts, read_lines(args.utt2spk) if args.utt2spk else None)
    if args.job:
        job = args.job[1] - args.one_based
        if not 0 <= job < parts:
            parser.error(f"job {args.job[1]} of {parts}")
        pieces = [pieces[job]]
        if not args.out:
            print(*pieces[0], sep="\n")
    for path, lines in zip(args.out, pieces):
        with atomic_open(path) as f:
            f.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    main()
