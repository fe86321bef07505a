"""Score what was decoded against its reference: words, talker counts, RTF; times and signals if it has them."""

import argparse
import shlex
import sys

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.text.normalise import PROFILES, UNITS


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--ref", required=True, help="the clips that were decoded: dump/<set>, with 'supervision'")
    parser.add_argument("--hyp", required=True, help="the decode directory, with hyp.seglst.json")
    parser.add_argument("--unit", choices=UNITS, default="word", help="what an error is counted in")
    parser.add_argument("--profile", choices=PROFILES, default="none", help="normalisation of both sides")
    # Options that are not given are left to score_decode, which looks at what decoding recorded.
    parser.add_argument("--permutation_unit", default="clip", choices=("clip", "session"),
                        help="within what speakers may be permuted; session: all clips of a recording are one, and of "
                             "an answer's speakers each label is one person in all of them")
    parser.add_argument("--sot_order", default=argparse.SUPPRESS,
                        help="order of the serialized reference (default: as recorded in decode.json, else onset)")
    parser.add_argument("--tie_rule", default=argparse.SUPPRESS,
                        help="order of talkers who begin together (default: as recorded, else speaker)")
    parser.add_argument("--sot_unit", default=argparse.SUPPRESS,
                        help="what <sc> parts, talker or utterance (default: as recorded, else talker)")
    parser.add_argument("--speaker_attributed", type=str2bool, default=False,
                        help="also compare speakers by name (always done where speakers were registered)")
    parser.add_argument("--tcp_collar", type=float, default=argparse.SUPPRESS,
                        help="seconds; also score words with a constraint on their times, usually 5 (default: not)")
    parser.add_argument("--sweep_diarization", type=str2bool, default=False,
                        help="also report the best DER over median widths and thresholds (needs activity.npz); it is "
                             "chosen by the reference of this very set")
    parser.add_argument("--nj", type=int, default=1, help="processes that compare separated signals")
    parser.add_argument("--out", default=argparse.SUPPRESS, help="(default: score.json in the decode directory)")
    return parser


@command
def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = get_parser().parse_args(argv)
    from espnet_mt_llm.scoring.score import score_decode, summary

    line = shlex.join(["python", "-m", "espnet_mt_llm.bin.score_decode", *argv])
    print(summary(score_decode(**vars(args), command=line)))


if __name__ == "__main__":
    main()
