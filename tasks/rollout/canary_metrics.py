"""Canary metrics: the requests that count for canary and for production, and the metrics of each.

Every metric is a number in [0, 1] per request, larger is worse. A request counts once, for its intended
package: if the canary failed and production answered instead, that is the canary's failure, and that
canary's, even if another package is the canary by now. Rows without an intended package, those from before
the column `"meant"`, count for neither. The decision is made in `tasks.rollout.canary_analysis`.

A response whose first token exceeds the deadline counts as an error, with or without a fallback. The canary
has production as its fallback, so it is skipped where it has not begun in time; production as the last
route may take longer, and its late answers would count as good ones that the canary had no chance to give.

Only the first request of each user counts, of all that reached one of the two packages. A user stays with
one package and sends similar requests, so a second one would add no information; and whether a user asks
again, and about what, depends on the answer (a refused user rephrases), so second requests are not the same
population for both packages. First requests are: a hash assigns them to a package before anything has been
answered. This holds for the request as a whole, hence not for the first of each metric (the first *answer*
of a user is often the second request of one whose first failed), and not for the first at each package where
the traffic split has moved a user from one to the other. Rows without a pseudonymous user id (the column
`visitor`) count each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from tasks.core.errors import GraftError
from tasks.monitoring.telemetry_row import REDTEAM_OWNER
from tasks.rollout.confidence_sequences import Values
from tasks.rollout.shadow_comparison import SHADOW, ShadowPair

SLOW_QUANTILE = 0.95
_BY_DIGEST = "digest"
"""The route of a request for a package by its digest (smoke tests, developers), which is not assigned at random."""
_NOT_TRIED = r"\w+=circuit_open"
"""The beginning of `"passed_over"` where the first choice was not tried, which says nothing about the package."""
_CLOSED = 499
_CACHED = ("hit", "semantic")
_COLUMNS = (
    *("at", "digest", "operation", "owner", "visitor", "status", "latency_ms", "first_token_ms"),
    *("route", "meant", "passed_over", "cache", "blocked_by", "user_chars", "refused", "valid_format"),
)


@dataclass(frozen=True)
class CanarySamples:
    """The metrics of both packages."""

    canary: dict[str, Values]
    """By metric: a number in [0, 1] per counted request of the canary for which it is known [n]."""
    production: dict[str, Values]
    """The same of production."""
    slow_ms: float | None
    """Latency above which an answer is slow, in ms; None while production has answered too few requests."""


def canary_samples(
    rows: pd.DataFrame, canary: str, production: str, start: datetime, reference: int, first_token_s: float
) -> CanarySamples:
    """The metrics of each user's first request since `start` that was intended for one of the two packages.

    An answer is slow if it takes longer than the 95th percentile of production's earlier answers. That
    quantile is an estimate; so both packages are measured against the same number, and it comes from answers
    that are not compared: all of those before `start`, or, if they are fewer than `reference`, these
    and the first of the others, `reference` together. Whatever fraction lies beyond it, equal packages
    have the same one.

    Args:
        rows: columns as in `tasks.monitoring.telemetry_row.TelemetryRow`; rows before `start` serve
            for `slow_ms` alone. There may be a column `quality` in [0, 1], NaN where an answer was not rated.
        canary: digest of the canary.
        production: digest of the package in production.
        start: when the phase began; aware.
        reference: minimum number of answers for a percentile.
        first_token_s: deadline of the first token, in seconds from the request's arrival.

    Raises:
        GraftError: a column is missing, or a quality is not in [0, 1].
    """
    if absent := [column for column in _COLUMNS if column not in rows]:
        raise GraftError(f"telemetry rows: no column {', '.join(absent)}; read them with telemetry_store.read_window")
    requests = _completed(_routed(_counted(rows), (canary, production)), first_token_s)
    before, since = requests[requests["at"] < start], _first_per_user(requests[requests["at"] >= start])
    canary_rows, production_rows = since[since["meant"] == canary], since[since["meant"] == production]
    early = _latencies(before[before["meant"] == production])
    latencies = np.concatenate([early, _latencies(production_rows)])
    n_reference = max(len(early), reference)
    slow_ms = None
    if len(latencies) >= n_reference:
        slow_ms = float(np.quantile(latencies[:n_reference], SLOW_QUANTILE, method="higher"))
    return CanarySamples(
        canary=_metrics(canary_rows) | _slow(_latencies(canary_rows), slow_ms),
        production=_metrics(production_rows) | _slow(latencies[n_reference:], slow_ms),
        slow_ms=slow_ms,
    )


def has_traffic(rows: pd.DataFrame, digest: str) -> bool:
    """Whether any of the rows is of a request that would count for the package."""
    return not _routed(_counted(rows), (digest,)).empty


def shadow_samples(rows: pd.DataFrame, shadow: str, production: str, start: datetime, reference: int) -> CanarySamples:
    """The metrics of each user's first request since `start` that was copied to a shadow; see `canary_samples`.

    Only requests that production answered are copied, so production has no errors. Both are timed by their
    engine to the end of the first step of the tool loop, and the first `reference` requests determine
    `slow_ms`. The results of checks and rules on a shadow's answer are not known.

    Args:
        rows: telemetry rows with the column `shadow`.
        shadow: digest of the shadow.
        production: digest of the package in production.
        start: when the phase began; aware.
        reference: minimum number of answers for a percentile.

    Raises:
        GraftError: a column is missing.
    """
    if absent := [column for column in (*_COLUMNS, "shadow") if column not in rows]:
        raise GraftError(f"telemetry rows: no column {', '.join(absent)}; read them with telemetry_store.read_window")
    copies = _copies(rows, shadow, start)
    # A parse failure counts for neither, because it is not known for production's answers.
    failed = copies["status"] != 200
    pairs = shadow_pairs(rows, shadow, production, start)
    slow_ms = None
    if len(pairs) >= reference:
        latencies = [pair.production_ms for pair in pairs[:reference]]
        slow_ms = float(np.quantile(latencies, SLOW_QUANTILE, method="higher"))
    no_data = np.empty(0)
    timed = pairs[reference:] if slow_ms is not None else []
    return CanarySamples(
        canary={
            "errors": _numbers(failed),
            "slow": np.array([pair.shadow_ms > (slow_ms or 0) for pair in timed], dtype=np.float64),
            "refusals": np.array([pair.shadow_refused for pair in pairs], dtype=np.float64),
            "policy": no_data,
            "quality": no_data,
        },
        production={
            "errors": np.zeros(len(copies)),
            "slow": np.array([pair.production_ms > (slow_ms or 0) for pair in timed], dtype=np.float64),
            "refusals": np.array([pair.production_refused for pair in pairs], dtype=np.float64),
            "policy": no_data,
            "quality": no_data,
        },
        slow_ms=slow_ms,
    )


def shadow_pairs(rows: pd.DataFrame, shadow: str, production: str, start: datetime) -> list[ShadowPair]:
    """The comparison of both answers to each user's first copied request since `start`, if the shadow answered it.

    Args:
        rows: telemetry rows with the column `shadow`.
        shadow: digest of the shadow.
        production: digest of the package in production.
        start: when the phase began; aware.
    """
    texts = _copies(rows, shadow, start)["shadow"].fillna("")
    pairs = (ShadowPair.model_validate_json(text) for text in texts if text)
    return [pair for pair in pairs if pair.production == production]


def _copies(rows: pd.DataFrame, shadow: str, start: datetime) -> pd.DataFrame:
    copied = (rows["operation"] == SHADOW) & (rows["digest"] == shadow) & (rows["owner"] != REDTEAM_OWNER)
    return _first_per_user(rows[copied & (rows["at"] >= start)].sort_values("at", kind="stable"))


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    """The chat requests that reached a package, oldest first.

    Excluded are requests that failed by their own fault, requests that a check refused before the model ran,
    answers from the cache, and the requests of `graft redteam` under its own key.
    """
    chat = rows["operation"].fillna("chat") == "chat"
    reached = (rows["status"] == 200) | (rows["status"] == _CLOSED) | (rows["status"] >= 500)
    refused_before = (rows["status"] == 200) & rows["user_chars"].isna()
    customers = (rows["owner"] != REDTEAM_OWNER) & ~rows["cache"].isin(_CACHED)
    return rows[chat & reached & ~refused_before & customers].sort_values("at", kind="stable")


def _routed(rows: pd.DataFrame, digests: tuple[str, ...]) -> pd.DataFrame:
    """The rows whose first choice was one of these packages and was tried."""
    tried = (rows["route"] != _BY_DIGEST) & ~rows["passed_over"].fillna("").astype(str).str.match(_NOT_TRIED)
    return rows[rows["meant"].isin(digests) & tried]


def _completed(rows: pd.DataFrame, first_token_s: float) -> pd.DataFrame:
    """The rows with two more columns on the first choice.

    `skipped`: another route had to answer instead, or would have had to if there had been one. `failed`: it was
    skipped, or there is no valid answer. A client that disconnected before the first token waited until then.
    """
    late = rows["first_token_ms"].fillna(rows["latency_ms"]) > 1000 * first_token_s
    skipped = (rows["passed_over"].fillna("") != "") | late
    failed = skipped | (rows["status"] >= 500) | rows["valid_format"].eq(False)
    return rows.assign(skipped=skipped, failed=failed)


def _first_per_user(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of each user, and all rows without a user. The rows are oldest first."""
    known = rows["visitor"].fillna("") != ""
    return rows[~(known & rows.duplicated("visitor"))]


def _latencies(rows: pd.DataFrame) -> Values:
    """The latencies of the package's own answers, in ms [n]; of an abandoned request, the time until then."""
    return _numbers(rows.loc[rows["status"].isin((200, _CLOSED)) & ~rows["skipped"], "latency_ms"])


def _metrics(rows: pd.DataFrame) -> dict[str, Values]:
    """All metrics but `slow`."""
    answered = rows[(rows["status"] == 200) & ~rows["skipped"]]
    quality = answered["quality"].dropna() if "quality" in answered else pd.Series(dtype=float)
    if not quality.between(0, 1).all():
        raise GraftError("telemetry rows: the column `quality` has a value outside 0 to 1; scale the scores first")
    return {
        "errors": _numbers(rows.loc[(rows["status"] != _CLOSED) | rows["skipped"], "failed"]),
        "refusals": _numbers(answered["refused"].eq(True)),
        "policy": _numbers(answered["blocked_by"].fillna("") != ""),
        "quality": _numbers(1 - quality),
    }


def _slow(latencies: Values, slow_ms: float | None) -> dict[str, Values]:
    return {"slow": np.asarray(latencies > slow_ms, dtype=np.float64) if slow_ms is not None else np.empty(0)}


def _numbers(values: pd.Series) -> Values:
    return values.to_numpy(dtype=np.float64)
