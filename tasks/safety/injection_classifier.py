"""A linear classifier of texts that scores with numpy alone: weights and vocabulary, no pickle, no scikit-learn.

    injection.json        bias, threshold, window, the sha256 of the two other files
    vocabulary.json       the pieces it knows, in the order of their weights
    weights.safetensors   idf [pieces] and weight [pieces], float32

What the pieces of a text are is `tasks/text/ngrams.py`; how the weights come about, `tasks/prompt_injection.py`.
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
    """What `injection.json` says: a text is an attack if its log-odds exceed `threshold`."""

    bias: float
    threshold: float
    window_words: int
    sources: dict[str, str]
    """Name of each set it learnt from, and its licence."""
    files: dict[str, str]


class NgramMatrix:
    """Texts as sparse vectors of length 1: (1 + ln count) x idf of each piece that is known.

    Args:
        vocabulary: each known piece and its place.
        idf: [pieces], how much a piece counts.
    """

    def __init__(self, vocabulary: Mapping[str, int], idf: Floats) -> None:
        self._vocabulary = vocabulary
        self._idf = idf

    def __call__(self, text: str) -> tuple[Ints, Floats]:
        """Places [n] and values [n] of a text; both are empty if nothing in it is known."""
        known = {self._vocabulary[piece]: n for piece, n in count_ngrams(text).items() if piece in self._vocabulary}
        places = np.fromiter(known.keys(), dtype=np.int64, count=len(known))
        values = np.fromiter((1 + math.log(n) for n in known.values()), dtype=np.float32, count=len(known))
        values *= self._idf[places]
        return places, values / max(float(np.linalg.norm(values)), 1e-9)


class Classifier:
    """Scores texts.

    Args:
        features: texts to vectors.
        weight: [pieces].
        info: bias, threshold and window.
    """

    def __init__(self, features: NgramMatrix, weight: Floats, info: ClassifierInfo) -> None:
        self.info = info
        self._features = features
        self._weight = weight

    def score(self, text: str) -> float:
        """The log-odds that `text` is an attack: of that stretch of it which looks most like one."""
        return max(self._score_stretch(stretch) for stretch in windows(text, self.info.window_words))

    def is_attack(self, text: str) -> bool:
        """Whether the score exceeds the threshold."""
        return self.score(text) > self.info.threshold

    def _score_stretch(self, text: str) -> float:
        places, values = self._features(text)
        return float(self._weight[places] @ values) + self.info.bias


def publish(built: Path, root: Path = CLASSIFIERS) -> str:
    """Copy a classifier to where it is served from; returns its digest.

    Raises:
        GraftError: as `open_classifier`.
    """
    open_classifier(built)
    return artifact_store.publish(built, INFO, root)


def open_classifier(folder: Path) -> Classifier:
    """The classifier in `folder`, after checking its files.

    Raises:
        GraftError: a file is missing, or not what `injection.json` says.
    """
    info = artifact_store.read(folder, INFO, ClassifierInfo, "classifier", "prompt_injection", frozenset({SCORES}))
    pieces: list[str] = json.loads((folder / VOCABULARY).read_bytes())
    weights = load_file(folder / WEIGHTS)
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return Classifier(NgramMatrix(vocabulary, weights["idf"]), weights["weight"], info)
