"""Draw mixtures: a manifest and its data directory for each set of conf/simulate.yaml."""

import argparse

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.simulation.config import load_config
from espnet_mt_llm.simulation.draw import draw_sets


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="conf/simulate.yaml")
    parser.add_argument("--data_dir", default="data", help="holds the sources; the sets are made in here")
    parser.add_argument("--sets", nargs="+", help="only these sets of the configuration")
    parser.add_argument("--debug", type=str2bool, default=False, help="use what the configuration's debug: overrides")
    args = parser.parse_args()
    for name, number in draw_sets(load_config(args.config, args.debug), args.data_dir, args.sets).items():
        print(f"{args.data_dir}/{name}: {number} mixtures")


if __name__ == "__main__":
    main()
