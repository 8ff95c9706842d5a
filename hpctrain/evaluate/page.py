"""An evaluation as one self-contained page (pure).

No script, no link to anything outside: the file can be mailed, archived and opened where there is no network. Every value is
escaped, since names and texts come from programs, models and people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hpctrain.evaluate.results import Evaluation, Line, ModelResult, SuiteResult, compare
from hpctrain.evaluate.table import number, with_error, words
from hpctrain.jobs.text import count, duration, plural, stamp

_LONGEST_TEXT = 1200
_BAR = 180
_WAYS = {"higher": "higher is better", "lower": "lower is better"}
_VERDICTS = {"unsure": "not told apart from chance"}
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --faint: #5c6675; --line: #d9dee6; --card: #f6f7f9;
  --bar: #1f6feb; --good: #2f7d4f; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e5e9f0; --faint: #98a2b3; --line: #2e3643;
  --card: #1b212b; --bar: #6cb0ff; --good: #6cc48d; --bad: #ff8a80; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444; --line: #bbb; --card: #fff; }
  section { break-inside: avoid-page; } rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
* { box-sizing: border-box; }
body { margin: 2rem auto; padding: 0 1.25rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); } .better { color: var(--good); } .worse { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .85rem; } td.number, th.number { text-align: right; }
.scroll { overflow-x: auto; } svg { display: block; } .track { fill: var(--line); } .bar { fill: var(--bar); }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
pre { margin: 0; white-space: pre-wrap; font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.sample { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem;
  margin: .6rem 0; }
"""


def render(evaluation: Evaluation) -> str:
    """The page."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    body = [
        _head(evaluation), _table(evaluation), _problems(evaluation),
        *(_suite(evaluation, name) for name in _suites(evaluation)),
        f'<p class="faint">Made {escape(stamp(evaluation.made_at))} by hpctrain {escape(evaluation.hpctrain_version)}. '
        "± is one standard error over rows; models that were measured on the same rows are compared row by row.</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(evaluation.name)}: evaluation</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def _suites(evaluation: Evaluation) -> list[str]:
    return list(dict.fromkeys(one.name for model in evaluation.models for one in model.suites))


def _head(evaluation: Evaluation) -> str:
    rows = "".join(f"<tr><th>{escape(model.label)}</th><td>{escape(model.path)}</td><td>{_size(model)}</td></tr>"
                   for model in evaluation.models)
    return (f"<header><h1>{escape(evaluation.name)}</h1><p class=\"faint\">evaluation of "
            f"{plural(len(evaluation.models), 'model')}</p><table>{rows}</table></header>")


def _size(model: ModelResult) -> str:
    return f"{count(model.parameters)} parameters" if model.parameters else ""


def _table(evaluation: Evaluation) -> str:
    lines = compare(evaluation)
    if not lines:
        return ""
    several = len(evaluation.models) > 1
    head = "<th>suite</th><th>measure</th>" + "".join(
        f'<th class="number">{escape(model.label)}</th><th></th>' for model in evaluation.models)
    head += '<th class="number">change</th><th></th>' if several else ""
    body = "".join(_line(line, several=several, first=index == 0 or lines[index - 1].suite != line.suite)
                   for index, line in enumerate(lines))
    return (f'<section><h2>Results</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div></section>")


def _line(line: Line, *, several: bool, first: bool) -> str:
    way = f' <span class="faint">{_WAYS[line.better]}</span>' if line.better in _WAYS else ""
    cells = [f"<td>{escape(line.suite) if first else ''}</td>", f"<td>{escape(words(line.measure))}{way}</td>"]
    most = max((abs(one.value) + (one.error or 0.0) for one in line.values if one and one.value is not None), default=0.0)
    for one in line.values:
        cells.append(f'<td class="number">{escape(with_error(one))}</td>')
        cells.append(f"<td>{_bar(one.value, one.error, most) if one and one.value is not None else ''}</td>")
    if several:
        change = "-" if line.change is None else ("+" if line.change > 0 else "") + number(line.change)
        cells.append(f'<td class="number">{escape(change)}</td>')
        cells.append(f'<td class="{escape(line.verdict)}">{escape(_VERDICTS.get(line.verdict, line.verdict))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _bar(value: float, error: float | None, most: float) -> str:
    """A bar as long as the value, with a whisker of one standard error to both sides."""
    scale = _BAR / most if most else 0.0
    length = abs(value) * scale
    whisker = ""
    if error:
        left, right = max(0.0, length - error * scale), min(float(_BAR), length + error * scale)
        whisker = f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="7" y2="7"/>'
    return (f'<svg width="{_BAR}" height="14" role="img" aria-label="{escape(number(value))}">'
            f'<rect class="track" width="{_BAR}" height="14" rx="2"/>'
            f'<rect class="bar" width="{length:.1f}" height="14" rx="2"/>{whisker}</svg>')


def _problems(evaluation: Evaluation) -> str:
    rows = "".join(f"<tr><th>{escape(one.name)}</th><td>{escape(label)}</td><td>{escape(one.problem)}</td></tr>"
                   for label, one in evaluation.problems)
    return f"<section><h2>Not measured</h2><table>{rows}</table></section>" if rows else ""


def _suite(evaluation: Evaluation, name: str) -> str:
    """What the models wrote, row by row."""
    results = [(model.label, one) for model in evaluation.models if (one := model.suite(name)) and not one.problem]
    if not results:
        return ""
    facts = "; ".join(f"{escape(label)}: {plural(one.rows, 'row')} in {duration(one.seconds)}" for label, one in results)
    samples = "".join(_sample(results, index) for index in range(max(len(one.samples) for _, one in results)))
    return f'<section><h2>{escape(name)}</h2><p class="faint">{escape(results[0][1].kind)}; {facts}</p>{samples}</section>'


def _sample(results: Sequence[tuple[str, SuiteResult]], index: int) -> str:
    found = [(label, one.samples[index]) for label, one in results if index < len(one.samples)]
    shared = {key: value for key, value in found[0][1].items() if all(other.get(key) == value for _, other in found)}
    rows = _values("", shared) if len(found) > 1 else ""
    for label, sample in found:
        own = {key: value for key, value in sample.items() if len(found) == 1 or key not in shared}
        rows += _values(label if len(found) > 1 else "", own)
    return f'<div class="sample"><table>{rows}</table></div>'


def _values(label: str, sample: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><th>{escape(label)}</th><th>{escape(words(key))}</th><td><pre>{escape(_shown(value))}</pre></td></tr>"
        for key, value in sample.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."
