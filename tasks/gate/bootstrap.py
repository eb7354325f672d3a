"""The bootstrap of the gate: how far a statistic would move with other rows. It knows numbers, no systems and no rules.

Rows are drawn with replacement, the statistic of each resample is computed, and the middle part of those
statistics is the interval (the percentile bootstrap: Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13). For two systems that answered the same rows, the row-by-row differences are
resampled (paired bootstrap: Koehn, Statistical Significance Tests for Machine Translation Evaluation,
EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import GateSettings

Floats = NDArray[np.float64]


def draws(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Indices of rows drawn with replacement from `n`: [resamples, n]."""
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def means(values: Floats, resamples: int, seed: int) -> Floats:
    """The mean of `values` [..., n] in each resample: [..., resamples].

    One matrix product with the count of each row's draws computes it, so that a thousand evaluations need no loop.
    """
    n = values.shape[-1]
    cells = draws(n, resamples, seed) + n * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * n).reshape(resamples, n)
    return np.asarray(values @ counts.T.astype(np.float64) / n)


def middle(statistics: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The percentile interval of `statistics` [..., resamples] at level `confidence`: low [...] and high [...]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail], axis=-1)
    return low, high


def interval(values: Floats, settings: GateSettings) -> tuple[float, float]:
    """The bootstrap interval of the mean of `values` [n]: its low and high end."""
    low, high = middle(means(values, settings.resamples, settings.seed), settings.confidence)
    return float(low), float(high)


def with_doubt(differences: Floats) -> Floats:
    """`differences` [..., n], in [-1, 1], with one row won and one row lost added: [..., n + 2].

    Where few rows differ, a sample without a lost row has an interval of no width, as if none could be lost.
    The correction follows Agresti & Min (Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24, 2005), who add half a pair of each of four kinds; a whole pair of
    each of the two kinds that differ is more conservative.
    """
    shape = differences.shape[:-1]
    return np.concatenate([differences, np.ones((*shape, 1)), -np.ones((*shape, 1))], axis=-1)


def p_of_loss(differences: Floats, loss: float, resamples: int, seed: int) -> Floats:
    """The p-value of the hypothesis that the true loss is at most `loss`: [...], in (0, 1].

    It is the fraction of resamples that lose no more than that, the sample itself counted as one (Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, ch. 4).

    Args:
        differences: candidate minus other, row by row, [..., n].
        loss: the largest tolerated loss of the mean, 0 or more.
        resamples: number of bootstrap resamples.
        seed: seed of the random generator.
    """
    within = (means(differences, resamples, seed) >= -loss).sum(axis=-1)
    return np.asarray((within + 1) / (resamples + 1))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Holm's procedure: the hypotheses to reject so that any true one is rejected with probability at most `alpha`.

    The bound holds for any dependence between the tests (Holm, A Simple Sequentially Rejective Multiple Test
    Procedure, Scandinavian Journal of Statistics 6, 1979).
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
