"""The result of a run as one HTML page that needs nothing else (pure). Everything that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from hpctrain.health.deep.judge import Judged, NodeVerdict, Verdict
from hpctrain.health.deep.report import Report

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2330;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d9dee7;vertical-align:top}
th{font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.v{font-weight:600;white-space:nowrap}.pass{color:#136f3a}.slow{color:#8a5a00}.failed,.corrupt{color:#a8182a}
.skipped,.unjudged{color:#5a6475}.bar{display:inline-block;height:.6rem;background:#6b8fd6;vertical-align:middle}
.bar.slow{background:#d59a2b}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#12161d;color:#dfe5ee}th,td{border-color:#2c3442}
.pass{color:#63c98d}.slow{color:#e3b35a}.failed,.corrupt{color:#ff7d8a}.skipped,.unjudged{color:#9aa5b5}}
"""


def render(report: Report, when: str) -> str:
    """The page.

    Args:
        when: the report's time in words.
    """
    return "".join(_page(report, when))


def _page(report: Report, when: str) -> Iterator[str]:
    yield "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    yield f"<title>Deep checks: {escape(report.worst.value)}</title><style>{_STYLE}</style>\n"
    yield f"<h1>Deep checks: {_verdict(report.worst)}</h1>\n"
    yield f"<p>Nodes: {len(report.nodes)}, profile {escape(report.profile)}, {escape(when)}. "
    yield f"Records: {escape(report.run)}</p>\n"
    blamed = ", ".join(escape(node.node) for node in report.blamed)
    yield f"<p>{f'To blame: <b>{blamed}</b>.' if blamed else 'No node is to blame for anything.'}</p>\n"
    yield from _table(("node", "verdict", "why", "hardware"), (_node_row(node) for node in report.nodes))
    if report.rounds:
        yield "<h2>Pairs</h2>\n"
        yield from _table(("round", "pair", "GB/s", ""), (
            (
                f"<td class=n>{one.round}", f"<td>{escape(one.first)} and {escape(one.second)}",
                f"<td class=n>{'-' if one.value is None else f'{one.value:.4g}'}", f"<td>{escape(one.detail)}",
            )
            for one in report.rounds
        ))  # fmt: skip
    for node in report.nodes:
        yield f"<details{' open' if node.verdict.bad else ''}><summary><h2 style='display:inline'>{escape(node.node)}</h2> "
        yield f"{_verdict(node.verdict)}</summary>\n"
        yield from _table(("measured", "value", "of the baseline", "verdict", "remarks"), map(_result_row, node.results))
        yield "</details>\n"
    yield "</html>\n"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{escape(head)}" for head in heads) + "\n"
    for row in rows:
        yield "<tr>" + "".join(row) + "\n"
    yield "</table>\n"


def _node_row(node: NodeVerdict) -> tuple[str, ...]:
    why = escape(node.reason)
    cells = (escape(node.node), _verdict(node.verdict), why, escape(node.kind))
    return tuple(f"<td>{cell}" for cell in cells)


def _result_row(one: Judged) -> tuple[str, ...]:
    what = one.measurement
    name = escape(f"{what.metric or what.check} {what.entity}".strip())
    value = "" if what.value is None else f"{what.value:.4g} {escape(what.unit)}"
    ratio = ""
    if one.ratio is not None:
        width = min(120, round(80 * max(0.0, one.ratio)))
        slow = " slow" if one.verdict is Verdict.SLOW else ""
        ratio = f"<span class='bar{slow}' style='width:{width}px'></span> {100 * one.ratio:.0f} %"
    return f"<td>{name}", f"<td class=n>{value}", f"<td>{ratio}", f"<td>{_verdict(one.verdict)}", f"<td>{escape(one.reason)}"


def _verdict(verdict: Verdict) -> str:
    return f"<span class='v {verdict.value}'>{verdict.value}</span>"
