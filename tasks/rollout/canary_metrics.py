"""The two sides of a comparison in service: which requests count for which package, and what is measured of each.

Every measure is a number in [0, 1] per request, larger is worse. A request counts once, for the
package that it was meant for: if the canary failed and production answered in its place, that is the
canary's failure, and that canary's, whichever is on trial by now. Rows that do not say whom they were
meant for, those from before the column `meant`, count for nobody. Nothing is judged here.

Whoever begins too late has failed, with another route behind it or without. Behind the canary stands
production, so it is passed over where it has not begun in time; production as the last route may take
longer, and its late answers would be good ones that the canary was never let give.

Of each visitor the first request counts, of all that reached one of the two packages, and no other.
A customer stays with one package and his requests are alike, so that a second would be no news; and
whether he asks again, and what, depends on the answer that he got (who is refused asks anew in other
words), so that second requests are not the same population for both. First ones are: a hash says to
which package they go, before anything has been answered. That is so for the request as a whole, hence
not the first of each measure (the first *answer* of a visitor is often the second request of one whose
first failed), and not one for each package where weights have moved somebody from one to the other.
Rows without a visitor count each for itself.
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
"""The route of who asks for a package by its digest (smoke tests, developers): not sent there by chance."""
_NOT_TRIED = r"\w+=circuit_open"
"""How `passed_over` begins where the first choice was left alone: that says nothing of the package."""
_CLOSED = 499
_CACHED = ("hit", "semantic")
_COLUMNS = (
    *("at", "digest", "operation", "owner", "visitor", "status", "latency_ms", "first_token_ms"),
    *("route", "meant", "passed_over", "cache", "blocked_by", "user_chars", "refused", "valid_format"),
)


@dataclass(frozen=True)
class CanarySamples:
    """What was measured, by measure: one number per counted request that it can be told of [n].

    `slow_ms` is what an answer is slow beyond, None while production has answered too little.
    """

    canary: dict[str, Values]
    production: dict[str, Values]
    slow_ms: float | None


def canary_samples(
    rows: pd.DataFrame, canary: str, production: str, start: datetime, reference: int, first_token_s: float
) -> CanarySamples:
    """Each visitor's first request since `start` that was meant for one of two packages, measured alike.

    Slow is what takes longer than the 95th percentile of production's earlier answers. That quantile
    is an estimate; so both packages are measured against the same number, and it comes from answers
    that are not compared: all of those before `start`, or, if they are fewer than `reference`, these
    and the first of the others, `reference` together. Whatever share lies beyond it, equal packages
    have the same one.

    Args:
        rows: columns as in `tasks.monitoring.telemetry_row.TelemetryRow`; those before `start` serve
            for `slow_ms` alone.
            A column `quality` in [0, 1] may be there, NaN where nobody judged.
        canary: the digest on trial.
        production: the digest that it is compared with.
        start: since when both are asked; aware.
        reference: the least number of answers for a percentile.
        first_token_s: within how many seconds of its arrival an answer has to begin.

    Raises:
        GraftError: a column is missing, or a quality is not in [0, 1].
    """
    if absent := [column for column in _COLUMNS if column not in rows]:
        raise GraftError(f"telemetry rows: no column {', '.join(absent)}; read them with telemetry_store.read_window")
    asked = _completed(_routed(_counted(rows), (canary, production)), first_token_s)
    before, since = asked[asked["at"] < start], _first_per_user(asked[asked["at"] >= start])
    tried, usual = since[since["meant"] == canary], since[since["meant"] == production]
    early = _latencies(before[before["meant"] == production])
    timed = np.concatenate([early, _latencies(usual)])
    earlier = max(len(early), reference)
    slow_ms = float(np.quantile(timed[:earlier], SLOW_QUANTILE, method="higher")) if len(timed) >= earlier else None
    return CanarySamples(
        canary=_measured(tried) | _slow(_latencies(tried), slow_ms),
        production=_measured(usual) | _slow(timed[earlier:], slow_ms),
        slow_ms=slow_ms,
    )


def has_traffic(rows: pd.DataFrame, digest: str) -> bool:
    """Whether any of the rows is of a request that would count for the package."""
    return not _routed(_counted(rows), (digest,)).empty


def shadow_samples(rows: pd.DataFrame, shadow: str, production: str, start: datetime, reference: int) -> CanarySamples:
    """Each visitor's first request since `start` that a shadow was asked too, measured alike; see `compared`.

    Only what production answered is copied, so the one side has no errors. Both are timed by their
    engine to the end of the first round, and the first `reference` requests say what is slow. What
    checks and rules made of a shadow's answer is not known.

    Raises:
        GraftError: a column is missing.
    """
    if absent := [column for column in (*_COLUMNS, "shadow") if column not in rows]:
        raise GraftError(f"telemetry rows: no column {', '.join(absent)}; read them with telemetry_store.read_window")
    copies = _copies(rows, shadow, start)
    failed = copies["status"] != 200  # of production's answers it is not known which could be parsed
    pairs = shadow_pairs(rows, shadow, production, start)
    slow_ms = None
    if len(pairs) >= reference:
        usual = [pair.production_ms for pair in pairs[:reference]]
        slow_ms = float(np.quantile(usual, SLOW_QUANTILE, method="higher"))
    nothing = np.empty(0)
    timed = pairs[reference:] if slow_ms is not None else []
    return CanarySamples(
        canary={
            "errors": _numbers(failed),
            "slow": np.array([pair.shadow_ms > (slow_ms or 0) for pair in timed], dtype=np.float64),
            "refusals": np.array([pair.shadow_refused for pair in pairs], dtype=np.float64),
            "policy": nothing,
            "quality": nothing,
        },
        production={
            "errors": np.zeros(len(copies)),
            "slow": np.array([pair.production_ms > (slow_ms or 0) for pair in timed], dtype=np.float64),
            "refusals": np.array([pair.production_refused for pair in pairs], dtype=np.float64),
            "policy": nothing,
            "quality": nothing,
        },
        slow_ms=slow_ms,
    )


def shadow_pairs(rows: pd.DataFrame, shadow: str, production: str, start: datetime) -> list[ShadowPair]:
    """What is known of both answers to each visitor's first copied request since `start`, if the shadow answered it."""
    found = (ShadowPair.model_validate_json(text) for text in _copies(rows, shadow, start)["shadow"].fillna("") if text)
    return [pair for pair in found if pair.production == production]


def _copies(rows: pd.DataFrame, shadow: str, start: datetime) -> pd.DataFrame:
    meant = (rows["operation"] == SHADOW) & (rows["digest"] == shadow) & (rows["owner"] != REDTEAM_OWNER)
    return _first_per_user(rows[meant & (rows["at"] >= start)].sort_values("at", kind="stable"))


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    """The chat requests that a package was asked, oldest first.

    Not a request's own faults, what a check refused before the model was asked, answers from the
    cache, nor what `graft redteam` asks under its own key.
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
    """The rows with how the first choice did.

    `passed` says that another had to answer in its place, or would have had to if there had been one;
    `failed` that it is so or the answer is none. Who has left before anything began waited until then.
    """
    late = rows["first_token_ms"].fillna(rows["latency_ms"]) > 1000 * first_token_s
    passed = (rows["passed_over"].fillna("") != "") | late
    failed = passed | (rows["status"] >= 500) | rows["valid_format"].eq(False)
    return rows.assign(passed=passed, failed=failed)


def _first_per_user(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of each visitor, and all that name none. The rows are oldest first."""
    known = rows["visitor"].fillna("") != ""
    return rows[~(known & rows.duplicated("visitor"))]


def _latencies(rows: pd.DataFrame) -> Values:
    """The times that are the package's own [n]; an abandoned request has the time until it was abandoned."""
    return _numbers(rows.loc[rows["status"].isin((200, _CLOSED)) & ~rows["passed"], "latency_ms"])


def _measured(rows: pd.DataFrame) -> dict[str, Values]:
    """All measures but the slow answers."""
    answered = rows[(rows["status"] == 200) & ~rows["passed"]]
    quality = answered["quality"].dropna() if "quality" in answered else pd.Series(dtype=float)
    if not quality.between(0, 1).all():
        raise GraftError("telemetry rows: a quality is not a number from 0 to 1; scale the scores before")
    return {
        "errors": _numbers(rows.loc[(rows["status"] != _CLOSED) | rows["passed"], "failed"]),
        "refusals": _numbers(answered["refused"].eq(True)),
        "policy": _numbers(answered["blocked_by"].fillna("") != ""),
        "quality": _numbers(1 - quality),
    }


def _slow(latencies: Values, slow_ms: float | None) -> dict[str, Values]:
    return {"slow": np.asarray(latencies > slow_ms, dtype=np.float64) if slow_ms is not None else np.empty(0)}


def _numbers(values: pd.Series) -> Values:
    return values.to_numpy(dtype=np.float64)
