"""Draw mixtures and conversations: a manifest and its data directory for each set of conf/simulate.yaml."""

import argparse
from pathlib import Path

from espnet_mt_llm.common import command, str2bool
from espnet_mt_llm.simulation.config import load_config
from espnet_mt_llm.simulation.draw import REPORT, draw_sets
from espnet_mt_llm.simulation.turn_statistics import format_table, read_report


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="conf/simulate.yaml")
    parser.add_argument("--data_dir", default="data", help="holds the sources; the sets are made in here")
    parser.add_argument("--sets", nargs="+", help="only these sets of the configuration")
    parser.add_argument("--debug", type=str2bool, default=False, help="use what the configuration's debug: overrides")
    parser.add_argument("--nj", type=int, default=1, help="how many processes draw")
    parser.add_argument("--allow_problems", type=str2bool, default=False,
                        help="go on without recordings that cannot be read (listed in problems.tsv)")
    args = parser.parse_args()
    configs = load_config(args.config, args.debug)
    for name, number in draw_sets(configs, args.data_dir, args.sets, args.nj, args.allow_problems).items():
        if configs[name].conversation is None:
            print(f"{args.data_dir}/{name}: {number} mixtures")
        else:
            report = read_report(Path(args.data_dir) / name / REPORT)
            print(f"{args.data_dir}/{name}: {number} conversations, {report['turns']} turns, {report['hours']:.2f} h")
            print(format_table({key: report[key] for key in ("target", "achieved")}))


if __name__ == "__main__":
    main()
