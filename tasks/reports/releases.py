"""What was released, for a person: the list with its figures, one package in full, and what to go back to.

Figures are those that the package was published with; one from before a figure existed lacks it, and
that is shown as a dash.
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
"""With which a line of the list has 120 characters; `graft audit` has the whole reason."""


def find(registry: Registry, name: str) -> str:
    """The digest of the package that `name` means: `production`, or its first 6 digits or more.

    Raises:
        GraftError: there is none, or several begin so.
    """
    if name == PRODUCTION:
        return in_production(registry).digest
    if not _PREFIX.fullmatch(name):
        raise GraftError(f"{name}: a package is named by `{PRODUCTION}` or 6 digits or more of its digest")
    named = [digest for digest in registry.packages() if digest.startswith(name)]
    if len(named) > 1:
        raise GraftError(f"{name}: several packages begin so, give more digits: {', '.join(named)}")
    if not named:
        raise GraftError(f"{name}: no such package in {registry.store.where}; `graft releases` lists those released")
    return named[0]


def in_production(registry: Registry) -> Channel:
    """The channel `production`.

    Raises:
        GraftError: nothing was released yet.
    """
    channel = registry.channel(PRODUCTION)
    if channel is None:
        raise GraftError("nothing was released yet; `graft run` does that")
    return channel


def before(history: list[Channel]) -> str | None:
    """The package that was in production before the one that is, or None.

    Who went back from a package does not want it back: going back twice goes two packages back.

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
    """The package that was in production before the one that is.

    Raises:
        GraftError: there is none.
    """
    digest = before(registry.history())
    if digest is None:
        raise GraftError("no package was in production before; name one (`graft audit` lists what was published)")
    return digest


def listing(registry: Registry) -> str:
    """Every release, newest first, with the candidate's quality, how much better than the base, and its whole turns."""
    swaps = [swap for swap in registry.history() if swap.name == PRODUCTION]
    if not swaps:
        return "nothing was released yet; `graft run` does that"
    head = "  ".join([f"{'released (UTC)':16}", f"{'package':12}", *_COLUMNS, "reason"])
    return "\n".join([head, *(_line(registry, swap) for swap in reversed(swaps))])


def _line(registry: Registry, swap: Channel) -> str:
    systems, rates = scores(registry, swap.digest), assistant_rates(registry, swap.digest)
    ours, base = _means(systems, "candidate"), _means(systems, "base")
    gain = ours["quality"] - base["quality"] if "quality" in ours and "quality" in base else None
    texts = (
        _text(ours.get("quality")),
        _text(gain, "+.3f"),
        _text(_value(rates, "tool_exact")),
        _text(_value(rates, "policy_violations"), ".0f"),
        _text(_value(rates, "false_refusal_rate")),
    )
    cells = [text.rjust(len(title)) for text, title in zip(texts, _COLUMNS, strict=True)]
    reason = textwrap.shorten(swap.reason, _REASON_WIDTH, placeholder=" ...")
    return "  ".join([f"{swap.at:%Y-%m-%d %H:%M}", swap.digest[:12], *cells, reason])


def describe(registry: Registry, digest: str) -> str:
    """One package: how it was made, its card with all that was measured of it, and what was done with it."""
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
    """The systems that a package's evaluation measured, with their totals; empty where it has none."""
    path = registry.evaluation(digest) / "scores.json"
    systems = json.loads(path.read_text(encoding="utf-8")).get("systems") if path.is_file() else None
    return systems if isinstance(systems, dict) else {}


def assistant_rates(registry: Registry, digest: str) -> dict[str, Rate]:
    """What the stage `evaluate_assistant` measured of a package; empty where it was published without."""
    path = registry.evaluation(digest) / ASSISTANT_SCORES
    return read_rates(path) if path.is_file() else {}


def _value(rates: dict[str, Rate], name: str) -> float | None:
    return rates[name].value if name in rates else None


def _card(registry: Registry, digest: str) -> list[str]:
    """The card with what was measured; of a package from before there was one, its own card and its scores."""
    whole, own = registry.evaluation(digest) / CARD, registry.package(digest) / CARD
    if whole.is_file():
        return [whole.read_text(encoding="utf-8").strip()]
    text = own.read_text(encoding="utf-8").strip() if own.is_file() else "This package has no card."
    return [text, "", *_scores(scores(registry, digest))]


def _means(systems: dict[str, Any], system: str) -> dict[str, float]:
    """A system's means over all rows, those that are there."""
    found: dict[str, Any] = systems.get(system, {}).get("all", {})
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _text(value: float | None, form: str = ".3f") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _scores(systems: dict[str, Any]) -> list[str]:
    """A table of what each system was measured at."""
    if not systems:
        return ["It was published without scores."]
    lines = [f"| system | rows | {' | '.join(_SCORES.values())} |", "| --- | ---: |" + " ---: |" * len(_SCORES)]
    for system in systems:
        means = _means(systems, system)
        cells = (_text(means.get(name)).rjust(len(title)) for name, title in _SCORES.items())
        lines.append(f"| {system} | {means.get('n', 0):.0f} | {' | '.join(cells)} |")
    return lines


def _provenance(path: Path) -> list[str]:
    """When it was built, from which commit, in which run: what of that is known."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [f"{name.replace('_', ' ')}: {value}" for name, value in known.items() if value]


def _approvals(entries: list[audit_log.Entry]) -> list[str]:
    approved = [entry for entry in entries if entry.action in ("approve", "override")]
    return [f"Approved by {entry.who}: {entry.reason}" for entry in approved] or ["No person approved it."]
