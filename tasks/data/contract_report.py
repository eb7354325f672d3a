"""Contract report for people: a text table for the terminal, and one self-contained HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import date
from html import escape

from tasks.data.contract_spec import ContractSpec
from tasks.data.rule_results import ContractRuleResult

REASON_CHARS = 110
"""The longest reason in the text table, in characters."""


def text_table(results: Sequence[ContractRuleResult], shown: int) -> str:
    """Rules with their severity, count and limit, and below each its first `shown` violations."""
    header = ("rule", "severity", "count", "allowed")
    rows = [(r.rule, r.severity, str(r.count), r.limit) for r in results]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [_columns(header, widths)]
    for row, result in zip(rows, results, strict=True):
        lines.append(_columns(row, widths))
        lines.extend(f"    {v.source}  {textwrap.shorten(v.reason, REASON_CHARS)}" for v in result.violations[:shown])
        if result.count > shown:
            lines.append(f"    … and {result.count - shown} more")
    return "\n".join(lines)


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def html_page(results: Sequence[ContractRuleResult], spec: ContractSpec, rows: int, today: date, shown: int) -> str:
    """The whole report as HTML, readable in a browser without a network, in light and in dark mode.

    Args:
        results: the result of every rule.
        spec: the data contract.
        rows: the number of lines that were checked.
        today: the date of the check.
        shown: the number of violations per rule that the page lists.
    """
    broken = sum(r.verdict == "broken" for r in results)
    warned = sum(r.verdict == "warning" for r in results)
    verdict = f"{broken} broken" if broken else "passed"
    if warned:
        verdict += f", {warned} {'warning' if warned == 1 else 'warnings'}"
    facts = {
        "Owner": spec.owner,
        "License": spec.license,
        "Source": spec.source,
        "Updated": f"{spec.updated.isoformat()}, to be refreshed every {spec.cadence_days} days",
        "Checked": f"{rows} rows on {today.isoformat()}",
    }
    return _PAGE.format(
        style=_STYLE,
        kind="broken" if broken else "warning" if warned else "ok",
        verdict=escape(verdict),
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
        rules="".join(_rule(result, shown) for result in results),
    )


def _rule(result: ContractRuleResult, shown: int) -> str:
    cells = (result.rule.replace("_", " "), result.severity, str(result.count), result.limit)
    row = (
        f'<tr><td><span class="mark {result.verdict}">{result.verdict}</span></td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )
    if not result.violations:
        return row
    items = "".join(
        f"<li><code>{escape(violation.source)}</code> {escape(violation.reason)}</li>"
        for violation in result.violations[:shown]
    )
    more = f"<li>… and {result.count - shown} more in result.json</li>" if result.count > shown else ""
    return f'{row}<tr class="offending"><td></td><td colspan="4"><ul>{items}{more}</ul></td></tr>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data contract: {verdict}</title>
<style>{style}</style>
</head>
<body>
<h1>Data contract <span class="mark {kind}">{verdict}</span></h1>
<dl>{facts}</dl>
<table>
<thead><tr><th>Result</th><th>Rule</th><th>Severity</th><th>Count</th><th>Allowed</th></tr></thead>
<tbody>{rules}</tbody>
</table>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c2024, #e8eaed); --faint: light-dark(#5f6670, #9aa2ad);
  --line: light-dark(#dde1e6, #343a42); --ground: light-dark(#ffffff, #15181c);
  --ok: light-dark(#1a7f45, #58c98a); --warning: light-dark(#8f5a00, #e9b04f); --broken: light-dark(#b3261e, #ff8a80); }
body { margin: 2.5rem auto; max-width: 60rem; padding: 0 1.25rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { color: var(--faint); } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; margin-top: 1.5rem; }
th { text-align: left; color: var(--faint); font-weight: 500; }
th, td { padding: .45rem .8rem .45rem 0; vertical-align: top; }
tbody tr { border-top: 1px solid var(--line); } tbody tr.offending { border-top: 0; }
td:nth-child(4) { font-variant-numeric: tabular-nums; }
ul { margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; font-size: .875rem; }
.mark { font-size: .875rem; font-weight: 600; white-space: nowrap; }
h1 .mark { font-size: 1.1rem; margin-left: .5rem; }
.ok { color: var(--ok); } .warning { color: var(--warning); } .broken { color: var(--broken); }
"""
