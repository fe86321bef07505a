"""Print the table of all scores of a recipe, and where its results page is."""

import argparse

from espnet_mt_llm.common import command


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--exp", default="exp", help="where <system>/<step>/<decoding>/<set>/score.json are")
    parser.add_argument("--page", default="exp/results.html", help="the page that make_results wrote")
    return parser


@command
def main(argv=None) -> None:
    args = get_parser().parse_args(argv)
    from espnet_mt_llm.scoring.results import show_results

    print(show_results(**vars(args)))


if __name__ == "__main__":
    main()
