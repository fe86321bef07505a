"""Make the results of a recipe: its README table, results.json and a self-contained HTML page."""

import argparse

from espnet_mt_llm.common import command


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--recipe", default=".", help="the recipe directory; paths in score.json are relative to it")
    parser.add_argument("--exp", default="exp", help="where <system>/<step>/<decoding>/<set>/score.json are")
    parser.add_argument("--dump", help="where <set>/statistics.json are, what the clips are like")
    parser.add_argument("--out_readme", help="the README whose table between the markers is made anew")
    parser.add_argument("--out_json", help="the rows; those of other origin are kept")
    parser.add_argument("--out_html", help="the page")
    return parser


@command
def main(argv=None) -> None:
    args = get_parser().parse_args(argv)
    from espnet_mt_llm.scoring.results import make_results

    print(make_results(**vars(args)))


if __name__ == "__main__":
    main()
