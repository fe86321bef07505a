"""Building blocks of the results page: elements that escape whatever is put into them, and the style sheet."""

import html
from typing import Any, Sequence


class Html(str):
    """Text that is HTML already; any other text is escaped when it becomes part of an element."""


def el(name: str, *children: Any, **attributes: Any) -> Html:
    """Build an element; children and attribute values are escaped unless they are :class:`Html`.

    ``class_`` stands for ``class``, ``_`` in attribute names for ``-``; an attribute that is None is left out.

    >>> el("td", "a < b", el("b", "&"), class_="num")
    '<td class="num">a &lt; b<b>&amp;</b></td>'
    """
    pairs = "".join(f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"'
                    for k, v in attributes.items() if v is not None)
    body = "".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children)
    return Html(f"<{name}{pairs}>{body}</{name}>")


def join(parts: Sequence[Any], between: str = "") -> Html:
    """Join parts, escaping those that are not :class:`Html`."""
    return Html(html.escape(between).join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def html_table(lines: Sequence[Sequence[Any]], numbers_from: int) -> Html:
    """Build a table from a header and lines; columns from ``numbers_from`` on are set to the right."""
    def cells(tag: str, line: Sequence[Any]) -> Html:
        return el("tr", *(el(tag, c, class_="num" if i >= numbers_from else None) for i, c in enumerate(line)))

    body = el("tbody", *(cells("td", line) for line in lines[1:]))
    return el("div", el("table", el("thead", cells("th", lines[0])), body), class_="scroll")


def page(title: str, *body: Any) -> str:
    """Return a complete document: one file that loads nothing."""
    head = el("head", Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
                           '<meta name="color-scheme" content="light dark">'
                           '<link rel="icon" href="data:,">'),
              el("title", title), Html(f"<style>{STYLE}</style>"))
    return f'<!doctype html>\n<html lang="en">{head}{el("body", el("main", *body))}</html>\n'


STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#596373;--line:#dde2ea;--fill:#eef1f5;--accent:#1f66c1;
--s1:#1f66c1;--s2:#d2600f;--s3:#1d8a5f;--s4:#8a4fc4;--s5:#b8326f;--s6:#6b7280;
--sub:#fdebc8;--sub-ink:#7a4a00;--ins:#dbeafe;--ins-ink:#174ea6;--del:#fde0de;--del-ink:#a3221b}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#9aa6b6;--line:#2d3643;
--fill:#232b36;--accent:#6ea8ff;--s1:#6ea8ff;--s2:#f5a056;--s3:#4fc797;--s4:#c39bf0;--s5:#f183b4;--s6:#a8b0bd;
--sub:#4a3a17;--sub-ink:#fbd38d;--ins:#1d3659;--ins-ink:#a9cdff;--del:#552724;--del-ink:#ffb4ad}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:19px;margin:40px 0 12px}
h3{font-size:16px;margin:0 0 2px;overflow-wrap:anywhere}
h4{font-size:13px;margin:20px 0 8px;color:var(--soft);font-weight:600}
p{margin:6px 0}a{color:var(--accent)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0 0;font-size:14px}
.soft{color:var(--soft)}.small{font-size:13px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:0 0 16px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12.5px}
tbody tr:last-child td{border-bottom:0}
td.num,th.num{text-align:right}
tr.part td{color:var(--soft);border-bottom-style:dotted}
tr.part td:nth-child(4){padding-left:24px}
td.main{font-weight:650;color:var(--ink)}
.two{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:8px 40px;align-items:start}
@media (max-width:760px){.two{grid-template-columns:minmax(0,1fr)}}
.matrix{width:auto;margin:0}
.matrix td,.matrix th{border:2px solid var(--card);text-align:center;padding:6px 14px;min-width:52px}
.matrix td{border-radius:6px;background:color-mix(in srgb,var(--s1) calc(var(--share)*58%),var(--fill))}
.matrix td.miss{background:color-mix(in srgb,var(--s2) calc(var(--share)*75%),var(--fill))}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:16px}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:11.5px system-ui,sans-serif}svg .grid{stroke:var(--line);stroke-width:1}
svg path{fill:none;stroke-width:2;stroke-linejoin:round}
.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}
svg path,svg .dot{stroke:var(--c)}svg .dot{fill:var(--c);stroke:none}svg .dot.hit{fill:transparent}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12.5px;color:var(--soft);margin:0 0 4px}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;background:var(--c);margin-right:6px}
.lane{display:grid;grid-template-columns:130px minmax(0,1fr);gap:10px;align-items:center;margin:3px 0}
.lane .who{font-size:12.5px;color:var(--soft);text-align:right;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.track{position:relative;height:28px;background:var(--fill);border-radius:5px}
.seg{position:absolute;top:3px;bottom:3px;min-width:3px;border-radius:4px;padding:0 6px;font-size:12px;line-height:22px;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--ink);
background:color-mix(in srgb,var(--c) 28%,var(--card));border-left:3px solid var(--c)}
.seg.untimed{border:1px dashed var(--c);border-left:3px solid var(--c);line-height:20px;
background:color-mix(in srgb,var(--c) 12%,var(--card))}
.ticks{position:relative;height:18px;font-size:11.5px;color:var(--soft)}
.ticks span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.ticks span:first-child{transform:none}.ticks span.end{transform:translateX(-100%)}
.pair{display:flex;flex-wrap:wrap;gap:6px 4px;margin:2px 0 14px;font-size:13.5px}
.tok{display:inline-grid;grid-template-rows:auto auto;text-align:center;border-radius:5px;padding:1px 5px;
background:var(--fill)}
.tok span{min-height:1.5em}
.tok .hyp{border-top:1px solid color-mix(in srgb,currentColor 22%,transparent)}
.tok.sub{background:var(--sub);color:var(--sub-ink)}.tok.ins{background:var(--ins);color:var(--ins-ink)}
.tok.del{background:var(--del);color:var(--del-ink)}.tok.del .ref{text-decoration:line-through}
.mark{display:inline-block;border-radius:4px;padding:0 7px}
details{margin:10px 0 0}summary{cursor:pointer;color:var(--soft);font-size:13.5px}
summary.session{color:var(--ink);font-weight:600;font-size:14px;margin:18px 0 8px;overflow-wrap:anywhere}
h2+nav,nav+nav{margin:0 0 6px}nav+.card{margin-top:12px}
pre{background:var(--fill);border-radius:8px;padding:12px 14px;overflow-x:auto;font-size:12.5px;margin:8px 0}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 16px;font-size:13.5px;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
