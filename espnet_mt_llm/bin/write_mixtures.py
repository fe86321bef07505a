"""Write the audio of a drawn set of mixtures; one of several jobs, or all of it."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.simulation.write import leave_out_missing, write_mixtures


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="a set that draw_mixtures made")
    parser.add_argument("--job", type=int, default=1, help="number of this job, from 1")
    parser.add_argument("--num_jobs", type=int, default=1)
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without mixtures that cannot be made")
    parser.add_argument("--leave_out_missing", type=str2bool, default=False,
                        help="instead, when all jobs have ended: take those out of the set (listed in problems.tsv)")
    args = parser.parse_args()
    if args.leave_out_missing:
        print(f"{args.data_dir}: {leave_out_missing(args.data_dir)} mixtures left out")
        return
    written = write_mixtures(args.data_dir, args.job, args.num_jobs, args.allow_problems)
    print(f"{args.data_dir}: {written} mixtures written")


if __name__ == "__main__":
    main()
