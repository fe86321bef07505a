"""List what to enrol speakers from, and what is registered for each clip: dump/<set>/{enrolment,registration}."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.datadir.enrolment import make_enrolment


def get_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="session dir that the clips were cut from")
    parser.add_argument("--dump_dir", required=True, help="its clips; the lists are written here")
    parser.add_argument("--source_dir", dest="source_dirs", nargs="+", default=[],
                        help="data dirs to enrol from instead, e.g. near-field; mixtures know those of their sources")
    parser.add_argument("--min", dest="shortest", type=float, default=2.0, help="shortest stretch in seconds")
    parser.add_argument("--max", dest="longest", type=float, default=10.0, help="longest stretch in seconds")
    parser.add_argument("--num_stretches", type=int, default=3, help="at most so many are registered for a speaker")
    parser.add_argument("--num_distractors", type=int, default=100, help="speakers of other sessions for each clip")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--registration", type=str2bool, default=True, metavar="BOOL",
                        help="choose for each clip, as tests need it; false: the pool alone, to draw from in training")
    return parser


@command
def main() -> None:
    """Run the command."""
    args = vars(get_parser().parse_args())
    print(make_enrolment(args.pop("data_dir"), args.pop("dump_dir"), **args))


if __name__ == "__main__":
    main()
