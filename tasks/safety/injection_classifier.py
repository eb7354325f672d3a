"""Prompt-injection classifier: a linear model over n-grams that scores with numpy alone, no pickle, no scikit-learn.

    injection.json        bias, threshold, window, the sha256 of the two other files
    vocabulary.json       the n-grams that it knows, in the order of their weights
    weights.safetensors   idf [features] and weight [features], float32

`tasks/text/ngrams.py` defines the n-grams of a text; `tasks/prompt_injection.py` trains the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from tasks.core.paths import CLASSIFIERS
from tasks.core.records import Record
from tasks.model_package import artifact_store
from tasks.text.ngrams import count_ngrams, windows

INFO = "injection.json"
SCORES = "scores.json"
VOCABULARY = "vocabulary.json"
WEIGHTS = "weights.safetensors"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class ClassifierInfo(Record):
    """`injection.json`: the description of a classifier."""

    bias: float
    """Bias of the linear model, in log-odds."""
    threshold: float
    """Log-odds above which a text is an attack."""
    window_words: int
    """Length of the windows in which a text is scored, in words."""
    sources: dict[str, str]
    """Name of each training dataset, and its license."""
    files: dict[str, str]
    """sha256 of each other file, by name."""


class NgramMatrix:
    """Texts as sparse unit vectors of TF-IDF: (1 + ln count) x idf of each known n-gram.

    Args:
        vocabulary: index of each known n-gram.
        idf: inverse document frequency of each n-gram, [features].
    """

    def __init__(self, vocabulary: Mapping[str, int], idf: Floats) -> None:
        self._vocabulary = vocabulary
        self._idf = idf

    def __call__(self, text: str) -> tuple[Ints, Floats]:
        """Indices [n] and values [n] of a text's vector; both are empty if no n-gram of it is known."""
        known = {self._vocabulary[ngram]: n for ngram, n in count_ngrams(text).items() if ngram in self._vocabulary}
        indices = np.fromiter(known.keys(), dtype=np.int64, count=len(known))
        values = np.fromiter((1 + math.log(n) for n in known.values()), dtype=np.float32, count=len(known))
        values *= self._idf[indices]
        return indices, values / max(float(np.linalg.norm(values)), 1e-9)


class Classifier:
    """The classifier: scores texts.

    Args:
        features: turns texts into vectors.
        weight: weight of each n-gram, [features].
        info: bias, threshold and window.
    """

    def __init__(self, features: NgramMatrix, weight: Floats, info: ClassifierInfo) -> None:
        self.info = info
        self._features = features
        self._weight = weight

    def score(self, text: str) -> float:
        """The log-odds that `text` is an attack: the maximum over its windows."""
        return max(self._score_window(window) for window in windows(text, self.info.window_words))

    def is_attack(self, text: str) -> bool:
        """Whether the score exceeds the threshold."""
        return self.score(text) > self.info.threshold

    def _score_window(self, text: str) -> float:
        indices, values = self._features(text)
        return float(self._weight[indices] @ values) + self.info.bias


def publish(built: Path, root: Path = CLASSIFIERS) -> str:
    """Copy a classifier into the folder that it is served from; returns its digest.

    Raises:
        GraftError: as `open_classifier`.
    """
    open_classifier(built)
    return artifact_store.publish(built, INFO, root)


def open_classifier(folder: Path) -> Classifier:
    """The classifier in `folder`, after a check of its files.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in `injection.json`.
    """
    info = artifact_store.read(folder, INFO, ClassifierInfo, "classifier", "prompt_injection", frozenset({SCORES}))
    ngrams: list[str] = json.loads((folder / VOCABULARY).read_bytes())
    weights = load_file(folder / WEIGHTS)
    vocabulary = {ngram: index for index, ngram in enumerate(ngrams)}
    return Classifier(NgramMatrix(vocabulary, weights["idf"]), weights["weight"], info)
