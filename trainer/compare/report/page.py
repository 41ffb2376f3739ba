"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.report import text
from nextclick.trainer.compare.report.document import MethodReport, Report
from nextclick.trainer.compare.report.theme import Plot

_STYLE = """
:root { --page: #f6f7f9; --card: #fff; --ink: #1f2430; --muted: #6b7280; --line: #e3e6eb;
  --accent: #2f6fde; --warn: #8a5a00; --warn-card: #fff6e0 }
@media (prefers-color-scheme: dark) { :root { --page: #14161b; --card: #1d2027; --ink: #e8eaf0;
  --muted: #9aa3b2; --line: #343a46; --accent: #6ea3ff; --warn: #ffcf7a; --warn-card: #302713 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
p { margin: .4rem 0 } .muted, figcaption, small { color: var(--muted); font-size: .86rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem; margin: .8rem 0 }
.lead { font-size: 1.15rem }
.lead b { color: var(--accent) }
.warn { background: var(--warn-card); color: var(--warn); overflow-wrap: anywhere }
.warn ul { margin: .3rem 0 0; padding-left: 1.2rem }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem }
.facts dt { color: var(--muted); font-size: .82rem; line-height: 1.3 }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: .8rem; align-items: start; margin: .8rem 0 }
.plots .card { margin: 0 }
figure { margin: 0 } figure h3 { margin: 0 0 .5rem; font-size: 1rem }
img { width: 100%; height: auto; display: block }
.scroll { overflow-x: auto; padding: 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .5rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
th { color: var(--muted); font-weight: 600; font-size: .82rem }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); font-weight: 600; white-space: normal; min-width: 7rem }
td small { display: block; font-size: .76rem; font-weight: 400 }
.best { color: var(--accent); font-weight: 700 }
"""


def page(report: Report, plots: Sequence[Plot]) -> str:
    """The report as HTML, with plots."""
    measured = [method for method in report.methods if method.metrics]
    title = f"nextclick evaluate: {report.data}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body><main>
<h1>{escape(report.data)}</h1>
<p class="muted">Next-click prediction, methods side by side ·
<span style="white-space: nowrap">{escape(report.created_at[:10])}</span></p>
{_lead(measured)}
{_problems(report)}
<h2>Quality</h2>
<p class="muted">Full ranking of the catalogue, one right answer per case, ties against the model.
Shares in %; small: standard error over cases{_sd_note(report)}.</p>
{_table(measured, text.QUALITY, best=True)}
<div class="plots">{"".join(_figure(plot) for plot in plots)}</div>
<h2>Paired difference to the best other method</h2>
<p class="muted">The same cases, case by case, in percentage points; in brackets the bootstrap 95 %
interval over test sessions. If the interval holds 0, the difference is not significant.</p>
{_versus(measured)}
{_calibration(measured)}
<h2>Coverage and time</h2>
<p class="muted">Coverage: share of the catalogue that is in the first 20 of any case, in %.</p>
{_table(measured, text.COST, best=False)}
<h2>Data</h2>
{_facts({name: text.fact(number) for name, number in report.facts.items()})}
<h2>Run</h2>
{_facts({"seeds": ", ".join(map(str, report.seeds)), **report.environment})}
</main></body></html>
"""


def _lead(methods: Sequence[MethodReport]) -> str:
    """A sentence that names the best method, and its margin."""
    ranked = [method for method in methods if method.name != Ceiling.name]
    if not ranked:
        return ""
    best = ranked[0]
    sentence = (
        f"<b>{escape(best.name)}</b> is first: HR@20 {text.value(best, 'hr@20')}\u00a0%, "
        f"MRR@20 {text.value(best, 'mrr@20')}\u00a0%."
    )
    if difference := best.versus.get("hr@20"):
        sentence += (
            f" That is {text.points(difference)} points of HR@20 against "
            f"{escape(difference.other)}, the best of the others"
            f"{', which is not a significant difference' if difference.low <= 0 else ''}."
        )
    ceilings = [method for method in methods if method.name == Ceiling.name]
    if ceilings:
        share = best.metrics["hr@20"].mean / max(ceilings[0].metrics["hr@20"].mean, 1e-9)
        sentence += f" It reaches {100 * share:.1f}\u00a0% of the best possible."
    return f'<p class="card lead">{sentence}</p>'


def _problems(report: Report) -> str:
    """The problems of the input, and the methods that could not be run."""
    lines = [problem.text for problem in report.problems]
    lines += [f"{m.name} was not run: {m.failure}" for m in report.methods if m.failure]
    if not lines:
        return ""
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="card warn"><b>Worth knowing</b><ul>{listed}</ul></div>'


def _sd_note(report: Report) -> str:
    return ", sd: standard deviation over the seeds" if len(report.seeds) > 1 else ""


def _table(methods: Sequence[MethodReport], columns: dict[str, str], *, best: bool) -> str:
    """A table of metrics. best: mark the highest number of each column, except the ceiling's."""
    top = {
        metric: max(
            (
                method.metrics[metric].mean
                for method in methods
                if metric in method.metrics and method.name != Ceiling.name
            ),
            default=None,
        )
        for metric in columns
    }
    rows = []
    for method in methods:
        cells = [f"<td>{escape(method.name)}</td>"]
        for metric in columns:
            estimate = method.metrics.get(metric)
            first = best and estimate is not None and estimate.mean == top[metric]
            mark = ' class="best"' if first and method.name != Ceiling.name else ""
            small = "".join(f"<small>{part}</small>" for part in text.noise(method, metric))
            cells.append(f"<td{mark}>{text.value(method, metric)}{small}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _scrolling(["method", *columns.values()], rows)


def _calibration(methods: Sequence[MethodReport]) -> str:
    """How far probabilities are from what happened; empty if no method gives any."""
    probable = [method for method in methods if "ece" in method.metrics]
    if not probable:
        return ""
    return f"""<h2>Calibration</h2>
<p class="muted">Expected calibration error of the first item's probability, in %. Noise: a method
without any error stays below it in 95 % of samples.</p>
{_table(probable, text.CALIBRATION, best=False)}"""


def _versus(methods: Sequence[MethodReport]) -> str:
    rows = []
    for method in methods:
        cells = [f"<td>{escape(method.name)}</td>"]
        for metric in ("hr@20", "mrr@20"):
            difference = method.versus.get(metric)
            other = f"<small>to {escape(difference.other)}</small>" if difference else ""
            cells.append(f"<td>{text.versus(method, metric)}{other}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _scrolling(["method", "HR@20", "MRR@20"], rows)


def _scrolling(headings: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(rows)
    return (
        '<div class="card scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _facts(facts: dict[str, str]) -> str:
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts.items()
    )
    return f'<dl class="card facts">{listed}</dl>'


def _figure(plot: Plot) -> str:
    """A plot, in its light and dark version."""
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(image).decode()}"
        for image in (plot.light, plot.dark)
    )
    return (
        f'<figure class="card"><h3>{escape(plot.title)}</h3><picture>'
        f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(plot.title)}" loading="lazy"></picture>'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )
