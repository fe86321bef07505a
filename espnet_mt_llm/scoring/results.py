"""Make a recipe's results from its score.json files: README table, results.json and the HTML page."""

import dataclasses
from pathlib import Path
from typing import Optional

from espnet_mt_llm.common import Pathlike
from espnet_mt_llm.scoring.page import make_page, write_page
from espnet_mt_llm.scoring.score import write_json
from espnet_mt_llm.scoring.rows import merge_rows, read_rows
from espnet_mt_llm.scoring.table import clips_table, load_scores, readme_block, rows_of, terminal, write_readme


def recipe_title(recipe: Pathlike) -> str:
    """Name a recipe by its corpus: the directory above ``mtasr1``.

    >>> recipe_title("/x/egs2/mini/mtasr1"), recipe_title("/x/mini")
    ('mini', 'mini')
    """
    path = Path(recipe).resolve()
    return path.parent.name if path.name.startswith("mtasr") and path.parent.name else path.name


def make_results(recipe: Pathlike, exp: Pathlike, out_readme: Optional[Pathlike], out_json: Optional[Pathlike],
                 out_html: Optional[Pathlike], dump: Optional[Pathlike] = None) -> str:
    """Write the outputs that are named, and return the table and the page's path for the terminal.

    ``recipe`` is what relative paths inside score.json (its reference) belong to, ``dump`` holds the clips, whose
    statistics go into the README. Rows that results.json holds from
    elsewhere are kept.

    Raises:
        UserError: no scores, a broken input, or README markers that do not fit.
    """
    scores = load_scores(exp)
    text = terminal(scores)
    rows = merge_rows(read_rows(out_json) if out_json else [], (r for s in scores for r in rows_of(s)))
    title = recipe_title(recipe)
    # Everything is made before anything is written, so a mistake in one input leaves all outputs as they were.
    document = make_page(title, scores, rows, exp, recipe) if out_html else ""
    if out_readme:
        write_readme(out_readme, readme_block(scores, rows, clips_table(dump) if dump else ""), title)
    if out_json:
        write_json(out_json, [dataclasses.asdict(r) for r in rows])
    if out_html:
        write_page(out_html, document)
        text += f"\n\nResults page: {Path(out_html).resolve()}"
    return text


def show_results(exp: Pathlike, page: Optional[Pathlike]) -> str:
    """Return the table of all scores and the page's path, for the terminal."""
    return terminal(load_scores(exp), page)
