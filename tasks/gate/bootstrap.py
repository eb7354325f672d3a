"""The bootstrap: how far a figure would move with other rows. It knows numbers, no systems and no rules.

Rows are drawn with replacement, the figure of each draw is taken, and the middle share of those
figures is the interval (the percentile bootstrap: Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13). Of two systems that answered the same rows the differences are drawn, row by
row (Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import GateSettings

Floats = NDArray[np.float64]


def draws(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Places of rows drawn with replacement from `n`: [resamples, n]."""
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def means(values: Floats, resamples: int, seed: int) -> Floats:
    """The mean of `values` [..., n] in each draw: [..., resamples].

    One product with how often each row was drawn, so that a thousand evaluations need no loop.
    """
    n = values.shape[-1]
    cells = draws(n, resamples, seed) + n * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * n).reshape(resamples, n)
    return np.asarray(values @ counts.T.astype(np.float64) / n)


def middle(figures: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The ends of the middle share `confidence` of `figures` [..., resamples]: low [...] and high [...]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, [tail, 1 - tail], axis=-1)
    return low, high


def interval(values: Floats, settings: GateSettings) -> tuple[float, float]:
    """The interval of the mean of `values` [n]: its low and high end."""
    low, high = middle(means(values, settings.resamples, settings.seed), settings.confidence)
    return float(low), float(high)


def with_doubt(differences: Floats) -> Floats:
    """`differences` [..., n], in [-1, 1], with a row won and a row lost: [..., n + 2].

    Where few rows differ, a sample that holds no lost one has no width, as if there could be none.
    After Agresti & Min (Simple improved confidence intervals for comparing matched proportions,
    Statistics in Medicine 24, 2005), who add half a pair of each of four kinds; a whole one of the
    two kinds that differ is more cautious.
    """
    shape = differences.shape[:-1]
    return np.concatenate([differences, np.ones((*shape, 1)), -np.ones((*shape, 1))], axis=-1)


def p_of_loss(differences: Floats, loss: float, resamples: int, seed: int) -> Floats:
    """How well the means of `differences` [..., n] go with a true loss of at most `loss`: [...], in (0, 1].

    The share of draws that lose no more, the sample itself counted as one (Davison & Hinkley,
    Bootstrap Methods and their Application, 1997, ch. 4).
    """
    within = (means(differences, resamples, seed) >= -loss).sum(axis=-1)
    return np.asarray((within + 1) / (resamples + 1))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses to reject, so that a true one among them is rejected with probability `alpha` at most.

    Holds however they depend on each other (Holm, A Simple Sequentially Rejective Multiple Test
    Procedure, Scandinavian Journal of Statistics 6, 1979).
    """
    rejected = [False] * len(p_values)
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
