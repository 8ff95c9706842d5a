"""A report as one self-contained page (pure).

No script, no link to anything outside, no web font: the file can be mailed, archived, printed, and opened where there is no
network. A content security policy in the page says so to the browser. Every value is escaped, since names and reasons come
from programs and people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from hpctrain.jobs.goodput import CATEGORIES, Goodput
from hpctrain.jobs.incident import PHASES, Incident
from hpctrain.jobs.incident_text import PHASE_WORDS, kept, outcome, phases, rung_words, title
from hpctrain.jobs.page_svg import loss_curve, phase_bars, time_strip
from hpctrain.jobs.report import Entry, Report, averaged, summary_lines
from hpctrain.jobs.text import duration, plural, stamp

_BINS = 600
_TIMELINE = 400
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2430; --faint: #5c6675; --line: #d9dee6; --card: #f6f7f9;
  --curve: #1f6feb; --mark: #c2410c; --good: #2f7d4f; --bad: #b42318;
  --training: #3f9a63; --between_steps: #8fc7a3; --redone: #d9822b; --recovery: #c2410c; --start_up: #8a94a3;
  --queue: #c9cfd8; --other: #e3e7ec;
  --detect: #b42318; --kill: #d9572b; --regroup: #d9a02b; --init: #b7c26a; --state: #1f6feb; --data: #5aa0e8;
  --first_step: #3f9a63; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e5e9f0; --faint: #98a2b3; --line: #2e3643;
  --card: #1b212b; --curve: #6cb0ff; --mark: #fb923c; --good: #6cc48d; --bad: #ff8a80; --between_steps: #2c6b47;
  --start_up: #6b7585; --queue: #48515f; --other: #2a313c; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444; --line: #bbb; --card: #fff; }
  section { break-inside: avoid-page; } table { font-size: 8.5pt; } body { max-width: none; margin: 0; }
  rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .key i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
* { box-sizing: border-box; }
body { margin: 2rem auto; padding: 0 1.25rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); } .good { color: var(--good); } .bad { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.figure b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--line); } .mark { stroke: var(--mark); stroke-dasharray: 3 3; stroke-width: 1.5; }
.curve { fill: none; stroke: var(--curve); stroke-width: 1.8; stroke-linejoin: round; } .dot { fill: var(--curve); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .85rem; } td.number, th.number { text-align: right; }
.scroll { overflow-x: auto; } pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: .5rem 0; font-size: .85rem; color: var(--faint); }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: -1px; }
"""


def render(report: Report, *, made_at: float, version: str) -> str:
    """The page.

    Args:
        made_at: when, in seconds since the epoch, for the line at its foot.
        version: of hpctrain.
    """
    status = report.status
    colours = "".join(f".c-{name}{{fill:var(--{name});background:var(--{name})}}" for name in CATEGORIES)
    colours += "".join(f".p-{name}{{fill:var(--{name});background:var(--{name})}}" for name in PHASES)
    body = [
        _head(report), _figures(report), _time(report.goodput), _curve(report), _incidents(report), _numbers(report),
        _timeline(report.timeline, status.submitted_time),
        f'<p class="faint">Made {escape(stamp(made_at))} by hpctrain {escape(version)} from the run\'s own records.</p>',
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(status.name)}: report</title><style>{_STYLE}{colours}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def _head(report: Report) -> str:
    status = report.status
    tone = " good" if status.succeeded else " bad" if status.final else ""
    where = f" · {escape(status.recipe)}" if status.recipe else ""
    sentence = f"<p>{escape(_capital(status.explanation))}.</p>" if status.explanation else ""
    return (f'<header><h1>{escape(status.name)}</h1><p class="faint">job {escape(str(status.id))} · '
            f'<span class="{tone.strip()}">{escape(status.state.value)}</span>{where}</p>{sentence}</header>')


def _figures(report: Report) -> str:
    goodput = report.goodput
    pairs: list[tuple[str, str]] = []
    if report.status.step is not None:
        total = f" of {report.status.total_steps}" if report.status.total_steps else ""
        pairs.append((f"{report.status.step}{total}", "steps"))
    if goodput is not None and goodput.ettr is not None:
        pairs.append((f"{goodput.ettr:.1%}", "of all time was training that counts (ETTR)"))
        if goodput.goodput is not None:
            pairs.append((f"{goodput.goodput:.1%}", "of the time on nodes (goodput)"))
        pairs.append((duration(goodput.lost_s), "lost to failures"))
    pairs.append((str(len(report.incidents)), "failure" if len(report.incidents) == 1 else "failures"))
    pairs.append((str(report.steps_redone), "step done again" if report.steps_redone == 1 else "steps done again"))
    if goodput is not None and goodput.total_cost is not None:
        pairs.append((f"{goodput.total_cost:.3g}", f"{goodput.size.unit}, {sum(goodput.cost.values()):.3g} for failures"))
    cells = "".join(f'<div class="figure"><b>{escape(value)}</b>{escape(what)}</div>' for value, what in pairs)
    return f'<div class="figures">{cells}</div>'


def _time(goodput: Goodput | None) -> str:
    if goodput is None or not goodput.segments:
        return ""
    spent = [(name, goodput.seconds[name]) for name in CATEGORIES if goodput.seconds.get(name, 0.0) > 0]
    key = _key((f"c-{name}", f"{name.replace('_', ' ')} {duration(value)}", CATEGORIES[name]) for name, value in spent)
    unmeasured = "There are no metrics of single steps: all but recovery counts as training."
    note = "" if goodput.measured else f'<p class="faint">{unmeasured}</p>'
    hour = ""
    if goodput.lowest_hour is not None:
        when, value = goodput.lowest_hour
        hour = (f"<p>Over the last hour {goodput.sliding[-1][1]:.1%} was training that counts; over the worst hour, which"
                f" ended {escape(stamp(when))}, {value:.1%}.</p>")
    return f"<section><h2>Where the time went</h2>{time_strip(goodput)}{key}{hour}{note}</section>"


def _curve(report: Report) -> str:
    steps, losses = averaged(report.metrics.points, _BINS)
    if not losses:
        return "<section><h2>Training loss</h2><p>No step with a finite loss is recorded.</p></section>"
    marks = {float(one.step): f"{one.number}. {title(one)}" for one in report.incidents if one.step is not None}
    key = '<p class="faint">Dashed lines are failures; steps done again are drawn once.</p>' if marks else ""
    return f"<section><h2>Training loss</h2>{loss_curve(steps, losses, marks)}{key}</section>"


def _incidents(report: Report) -> str:
    if not report.incidents:
        return "<section><h2>Failures</h2><p>None.</p></section>"
    used = [name for name in PHASES if any(one.phases.get(name) for one in report.incidents)]
    key = _key((f"p-{name}", PHASE_WORDS[name], PHASES[name]) for name in used)
    unit = report.goodput.size.unit if report.goodput else ""
    costs = [report.cost_of(one) for one in report.incidents]
    head = "".join(f"<th{style}>{escape(name)}</th>" for name, style in (
        ("#", ""), ("time", ""), ("what happened", ""), ("rung", ""), ("outcome", ""), ("continued from", ""),
        (unit or "cost", ' class="number"')))
    rows = "".join(_incident(one, cost) for one, cost in zip(report.incidents, costs, strict=True))
    tracebacks = "".join(
        f"<h3>{one.number}. last words of the program</h3><pre>{escape(one.traceback)}</pre>"
        for one in report.incidents if one.traceback and one.outcome == "stopped")
    return (f"<section><h2>{escape(_capital(plural(len(report.incidents), 'failure')))}</h2>{phase_bars(report.incidents)}"
            f'{key}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
            f"{tracebacks}</section>")


def _incident(one: Incident, cost: float | None) -> str:
    how = outcome(one) + (f": {phases(one)}" if one.phases else "")
    rung = f"<b>{escape(one.rung or '-')}</b> {escape(rung_words(one.rung))}"
    action = f'<br><span class="faint">{escape(one.action)}</span>' if one.action and one.action != one.reason else ""
    cells = [str(one.number), escape(stamp(one.fault_time)), escape(title(one)) + action, rung, escape(how),
             escape(kept(one) or "-")]
    price = "-" if cost is None else f"{cost:.3g}"
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f'<td class="number">{price}</td></tr>'


def _numbers(report: Report) -> str:
    rows = "".join(f"<tr><th>{escape(label)}</th><td>{escape(text)}</td></tr>" for label, text in summary_lines(report))
    return f"<section><h2>Numbers</h2><table>{rows}</table></section>"


def _timeline(entries: Sequence[Entry], start: float | None) -> str:
    if not entries:
        return ""
    begin = entries[0].time if start is None else start
    shown, note = list(entries), ""
    if len(shown) > _TIMELINE:
        half = _TIMELINE // 2
        shown = [*shown[:half], *shown[-half:]]
        note = f'<p class="faint">{len(entries) - len(shown)} lines in the middle are left out.</p>'
    rows = "".join(f"<tr><td>{escape(stamp(entry.time))}</td><td>+{duration(max(0, round(entry.time - begin)))}</td>"
                   f"<td>{escape(entry.what)}</td></tr>" for entry in shown)
    return f'<section><h2>Timeline</h2>{note}<div class="scroll"><table>{rows}</table></div></section>'


def _key(parts: Iterable[tuple[str, str, str]]) -> str:
    spans = "".join(f'<span title="{escape(told)}"><i class="{escape(name)}"></i>{escape(words)}</span>'
                    for name, words, told in parts)
    return f'<div class="key">{spans}</div>'


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
