"""Make data directories of LibriMix from LibriSpeech, WHAM! noise and the official metadata."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.corpora import librimix


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--librispeech", required=True, help="the folder LibriSpeech or its parent")
    parser.add_argument("--metadata", required=True, help="the folder metadata of the LibriMix repository")
    parser.add_argument("--offset_metadata", nargs="+", default=[], help="further folders of CSV files with offsets")
    parser.add_argument("--draw_offsets", type=str2bool, default=False,
                        help="draw the offsets of dev and test of three talkers where the published ones are missing")
    parser.add_argument("--wham", help="the folder wham_noise; without it the clean sets alone are made")
    parser.add_argument("--out", default="data", help="the data directories are made in here")
    parser.add_argument("--parts", nargs="+", help="train_100 train_360 dev test; default: those that are there")
    parser.add_argument("--num_talkers", nargs="+", type=int, default=[2, 3], help="2 and 3 make 23mix sets, too")
    parser.add_argument("--types", nargs="+", default=["clean", "both"], help="clean both single")
    parser.add_argument("--conditions", nargs="+", default=["plain", "offset"], help="plain offset")
    parser.add_argument("--rate", type=int, default=16000, help="Hz: 16000 or 8000")
    parser.add_argument("--mode", default="max", help="max (to the end of the longest source) or min")
    parser.add_argument("--write", type=str2bool, default=False,
                        help="list files, which write_mixtures makes; false: rendered when read")
    parser.add_argument("--write_sources", type=str2bool, default=False, help="with --write: sources and noise, too")
    parser.add_argument("--speed_noise", default="sox",
                        help="makes training noise that the official script has not made: sox or soxr")
    parser.add_argument("--prepare_librispeech", type=str2bool, default=False,
                        help="make librispeech_<part> as well, of these parts or of all that are there")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--debug", type=str2bool, default=False, help="a few mixtures of each set only")
    parser.add_argument("--allow_problems", type=str2bool, default=False, help="mixtures with problems are left out")
    args = parser.parse_args()
    select = librimix.Selection(args.parts, args.num_talkers, args.types, args.conditions, args.rate, args.mode,
                                args.draw_offsets, args.debug)
    librimix.prepare(args.librispeech, args.metadata, args.out, wham=args.wham, offset_metadata=args.offset_metadata,
                     select=select, write=args.write, write_sources=args.write_sources, speed_noise=args.speed_noise,
                     prepare_librispeech=args.prepare_librispeech, nj=args.nj, allow_problems=args.allow_problems)


if __name__ == "__main__":
    main()
