"""Releases: the list of releases with their metrics, one package in full, and the package for a rollback.

The metrics are those with which a package was published; a package from before a metric existed lacks it,
which is shown as a dash.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from tasks.core.errors import GraftError
from tasks.evaluation.outputs import Rate, read_rates
from tasks.model_package.manifest import PROVENANCE
from tasks.registry import audit_log
from tasks.registry.registry import PRODUCTION, Channel, Registry
from tasks.reports.eval_tables import SHOWN
from tasks.reports.release_card import ASSISTANT_SCORES, CARD

_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_SCORES = {"quality": "quality", **SHOWN}
_COLUMNS = ("quality", "to base", "tool exact", "violations", "false refusals")
_NONE = "-"
_REASON_WIDTH = 30
"""Width of the column `reason`, in characters: a line of the list has 120. `graft audit` shows the full reason."""


def find(registry: Registry, name: str) -> str:
    """The digest of the package of a name: `production`, or at least the first 6 digits of its digest.

    Raises:
        GraftError: no package or several have that name.
    """
    if name == PRODUCTION:
        return in_production(registry).digest
    if not _PREFIX.fullmatch(name):
        raise GraftError(f"{name}: a package is named by `{PRODUCTION}` or at least 6 digits of its digest")
    matches = [digest for digest in registry.packages() if digest.startswith(name)]
    if len(matches) > 1:
        raise GraftError(f"{name}: several packages begin with these digits; name one of {', '.join(matches)}")
    if not matches:
        raise GraftError(f"{name}: no such package in {registry.store.where}; `graft releases` lists those released")
    return matches[0]


def in_production(registry: Registry) -> Channel:
    """The channel `production`.

    Raises:
        GraftError: no package was released yet.
    """
    channel = registry.channel(PRODUCTION)
    if channel is None:
        raise GraftError("no package was released yet; `graft run` does that")
    return channel


def before(history: list[Channel]) -> str | None:
    """The package that was in production before the current one, or None.

    A package that was rolled back does not count: two rollbacks return to the package before the last two.

    Args:
        history: swaps, oldest first.
    """
    stack: list[str] = []
    for swap in (swap for swap in history if swap.name == PRODUCTION):
        if swap.act and swap.act.action == "rollback" and swap.digest in stack:
            del stack[len(stack) - stack[::-1].index(swap.digest) :]
        else:
            stack.append(swap.digest)
    return next((digest for digest in reversed(stack) if digest != stack[-1]), None)


def to_go_back_to(registry: Registry) -> str:
    """The package for a rollback: the one that was in production before the current one.

    Raises:
        GraftError: there is none.
    """
    digest = before(registry.history())
    if digest is None:
        raise GraftError("no package was in production before; name one (`graft audit` lists all published packages)")
    return digest


def listing(registry: Registry) -> str:
    """Every release, newest first, with the candidate's quality, its uplift over the base, and end-to-end rates."""
    swaps = [swap for swap in registry.history() if swap.name == PRODUCTION]
    if not swaps:
        return "no package was released yet; `graft run` does that"
    head = "  ".join([f"{'released (UTC)':16}", f"{'package':12}", *_COLUMNS, "reason"])
    return "\n".join([head, *(_line(registry, swap) for swap in reversed(swaps))])


def _line(registry: Registry, swap: Channel) -> str:
    systems, rates = scores(registry, swap.digest), assistant_rates(registry, swap.digest)
    candidate, base = _means(systems, "candidate"), _means(systems, "base")
    uplift = candidate["quality"] - base["quality"] if "quality" in candidate and "quality" in base else None
    texts = (
        _text(candidate.get("quality")),
        _text(uplift, "+.3f"),
        _text(_value(rates, "tool_exact")),
        _text(_value(rates, "policy_violations"), ".0f"),
        _text(_value(rates, "false_refusal_rate")),
    )
    cells = [text.rjust(len(title)) for text, title in zip(texts, _COLUMNS, strict=True)]
    reason = textwrap.shorten(swap.reason, _REASON_WIDTH, placeholder=" ...")
    return "  ".join([f"{swap.at:%Y-%m-%d %H:%M}", swap.digest[:12], *cells, reason])


def describe(registry: Registry, digest: str) -> str:
    """One package as text for a person: provenance, release card, history from the audit log, and approvals."""
    folder, entries = registry.package(digest), audit_log.read_audit(registry, digest)
    return "\n".join(
        [
            f"package {digest}",
            *_provenance(folder / PROVENANCE),
            "",
            *_card(registry, digest),
            "",
            "History:",
            *(audit_log.line(entry) for entry in entries),
            *_approvals(entries),
        ]
    )


def scores(registry: Registry, digest: str) -> dict[str, Any]:
    """The systems of a package's evaluation, with their totals; empty without an evaluation."""
    path = registry.evaluation(digest) / "scores.json"
    systems = json.loads(path.read_text(encoding="utf-8")).get("systems") if path.is_file() else None
    return systems if isinstance(systems, dict) else {}


def assistant_rates(registry: Registry, digest: str) -> dict[str, Rate]:
    """The end-to-end rates of a package (stage `evaluate_assistant`); empty where it was published without."""
    path = registry.evaluation(digest) / ASSISTANT_SCORES
    return read_rates(path) if path.is_file() else {}


def _value(rates: dict[str, Rate], name: str) -> float | None:
    return rates[name].value if name in rates else None


def _card(registry: Registry, digest: str) -> list[str]:
    """The release card; of a package from before release cards, its model card and its scores."""
    release, model = registry.evaluation(digest) / CARD, registry.package(digest) / CARD
    if release.is_file():
        return [release.read_text(encoding="utf-8").strip()]
    text = model.read_text(encoding="utf-8").strip() if model.is_file() else "This package has no card."
    return [text, "", *_scores(scores(registry, digest))]


def _means(systems: dict[str, Any], system: str) -> dict[str, float]:
    """A system's means over all rows, without those that are missing."""
    totals: dict[str, Any] = systems.get(system, {}).get("all", {})
    return {name: float(value) for name, value in totals.items() if isinstance(value, int | float)}


def _text(value: float | None, form: str = ".3f") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _scores(systems: dict[str, Any]) -> list[str]:
    """A table of each system's mean scores."""
    if not systems:
        return ["It was published without scores."]
    lines = [f"| system | rows | {' | '.join(_SCORES.values())} |", "| --- | ---: |" + " ---: |" * len(_SCORES)]
    for system in systems:
        means = _means(systems, system)
        cells = (_text(means.get(name)).rjust(len(title)) for name, title in _SCORES.items())
        lines.append(f"| {system} | {means.get('n', 0):.0f} | {' | '.join(cells)} |")
    return lines


def _provenance(path: Path) -> list[str]:
    """Build time, commit and run of a package, as far as they are known."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [f"{name.replace('_', ' ')}: {value}" for name, value in known.items() if value]


def _approvals(entries: list[audit_log.Entry]) -> list[str]:
    approved = [entry for entry in entries if entry.action in ("approve", "override")]
    return [f"Approved by {entry.who}: {entry.reason}" for entry in approved] or ["No person approved it."]
