"""Write the audio of a drawn set of mixtures; one of several jobs, or all of it."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.simulation.write import write_mixtures


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="a set that draw_mixtures made")
    parser.add_argument("--job", type=int, default=1, help="number of this job, from 1")
    parser.add_argument("--num_jobs", type=int, default=1)
    args = parser.parse_args()
    print(f"{args.data_dir}: {write_mixtures(args.data_dir, args.job, args.num_jobs)} mixtures written")


if __name__ == "__main__":
    main()
