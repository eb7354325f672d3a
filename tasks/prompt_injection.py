"""Stage `prompt_injection`: trains the classifier of prompt injections, texts that try to take over the assistant.

It is a logistic regression on words and character n-grams, trained on published labeled attacks and on the
shop's own conversations. The threshold is set so that few of the shop's own turns are classified as attacks
by a classifier that was not trained on them (cross-validation). It recognizes the wording of an attack, not
whether a request is allowed, which is a matter of policy. Scoring needs none of this code:
`tasks/safety/injection_classifier.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from tasks.core.errors import GraftError, run_main
from tasks.core.files import new_folder, sha256_tree, write_bytes, write_json, write_text
from tasks.core.paths import BUILT_EXAMPLES, BUILT_PROMPT_INJECTION, KNOWLEDGE, PROMPT_INJECTION_SOURCES
from tasks.core.records import Example
from tasks.core.settings import PromptInjectionSettings, load_settings
from tasks.data.examples import load_examples
from tasks.safety.attack_datasets import (
    AttackSource,
    LabeledText,
    count,
    fetch_attacks,
    load_attack_sources,
    without_repeats,
)
from tasks.safety.injection_classifier import (
    INFO,
    SCORES,
    VOCABULARY,
    WEIGHTS,
    Classifier,
    ClassifierInfo,
    Floats,
    NgramMatrix,
    open_classifier,
)
from tasks.text.ngrams import count_ngrams

SHOP = "shop"
"""The source of the shop's own conversations."""
ARTICLES = "knowledge"
"""The source of the shop's own articles."""


def own_texts(examples: Sequence[Example], own_attacks: frozenset[str]) -> list[str]:
    """The customers' and the assistant's messages in `examples`, without rows whose id or label is in `own_attacks`.

    The assistant's messages train the classifier on the style of the shop's articles, which the model reads as data.
    """
    return [
        message.content
        for example in examples
        if example.id not in own_attacks and example.label not in own_attacks
        for message in example.messages
        if message.role in ("user", "assistant") and message.content
    ]


def paragraphs(folder: Path) -> list[str]:
    """The paragraphs of the shop's articles, each heading with the first one below it."""
    texts: list[str] = []
    heading = ""
    for path in sorted(folder.glob("*.md")):
        for block in filter(None, map(str.strip, path.read_text(encoding="utf-8").split("\n\n"))):
            if block.startswith("#"):
                heading = f"{block}\n\n"
            else:
                texts.append(heading + block)
                heading = ""
    return texts


def build(
    settings: PromptInjectionSettings, texts: Sequence[LabeledText], licenses: Mapping[str, str], target: Path
) -> dict[str, Any]:
    """Train on `texts`, measure on the held-out ones, and write the classifier; `target` is whole or untouched.

    Args:
        settings: the section `prompt_injection`.
        texts: with `held_out` set on those to measure on.
        licenses: of each published dataset among the texts, by its name.
        target: folder of the classifier.

    Returns:
        The content of `scores.json`.

    Raises:
        GraftError: there are too few training texts, or all have the same label.
    """
    training = [sample for sample in texts if not sample.held_out]
    if not {True, False} <= {t.attack for t in training} or sum(t.source == SHOP for t in training) < settings.folds:
        raise GraftError(
            f"prompt_injection: training needs attacks and at least {settings.folds} of the shop's own texts, but has "
            f"{count(training)}; see {PROMPT_INJECTION_SOURCES}"
        )
    with new_folder(target) as folder:
        _fit(settings, training, licenses, folder)
        scores = measure(open_classifier(folder), [sample for sample in texts if sample.held_out])
        write_json(folder / SCORES, scores)
    return scores


def _fit(
    settings: PromptInjectionSettings, texts: Sequence[LabeledText], licenses: Mapping[str, str], folder: Path
) -> None:
    ngrams, idf = _vocabulary(texts, settings)
    features = NgramMatrix({ngram: index for index, ngram in enumerate(ngrams)}, idf)
    table = _TrainingMatrix(texts, features, len(ngrams), settings)
    weight, bias = table.fit(np.ones(len(texts), dtype=bool))
    write_text(folder / VOCABULARY, json.dumps(ngrams, ensure_ascii=False))
    write_bytes(folder / WEIGHTS, save({"idf": idf, "weight": weight}))
    info = ClassifierInfo(
        bias=bias,
        threshold=_threshold(texts, features, table, settings),
        window_words=settings.window_words,
        sources={SHOP: "this repository's", **licenses},
        files=sha256_tree(folder),
    )
    write_json(folder / INFO, info.model_dump())


def _threshold(
    texts: Sequence[LabeledText], features: NgramMatrix, table: _TrainingMatrix, settings: PromptInjectionSettings
) -> float:
    """The score that the allowed fraction of the shop's own turns exceeds, each scored by a fit without it."""
    shop = np.array([index for index, sample in enumerate(texts) if sample.source == SHOP])
    scores: list[float] = []
    for fold in range(settings.folds):
        validation = shop[fold :: settings.folds]
        weight, bias = table.fit(~np.isin(np.arange(len(texts)), validation))
        info = ClassifierInfo(bias=bias, threshold=0.0, window_words=settings.window_words, sources={}, files={})
        scores += [Classifier(features, weight, info).score(texts[index].text) for index in validation]
    return float(np.quantile(scores, 1 - settings.max_false_positive_rate))


def _vocabulary(texts: Sequence[LabeledText], settings: PromptInjectionSettings) -> tuple[list[str], Floats]:
    """The n-grams that occur in most texts, and their idf [features]; ties are broken alphabetically."""
    document_counts: Counter[str] = Counter()
    for sample in texts:
        document_counts.update(count_ngrams(sample.text).keys())
    frequent = [(ngram, n) for ngram, n in document_counts.items() if n >= settings.min_df]
    kept = sorted(frequent, key=lambda pair: (-pair[1], pair[0]))[: settings.max_features]
    idf = np.log((1 + len(texts)) / (1 + np.array([n for _, n in kept], dtype=np.float64))) + 1
    return [ngram for ngram, _ in kept], idf.astype(np.float32)


class _TrainingMatrix:
    """The training data for scikit-learn: features [texts, features], labels [texts] and sample weights [texts]."""

    def __init__(
        self, texts: Sequence[LabeledText], features: NgramMatrix, size: int, settings: PromptInjectionSettings
    ) -> None:
        from scipy.sparse import csr_matrix

        vectors = [features(sample.text) for sample in texts]
        starts = np.cumsum([0, *(len(indices) for indices, _ in vectors)])
        indices, values = (np.concatenate(part) for part in zip(*vectors, strict=True))
        self._features = csr_matrix((values.astype(np.float64), indices, starts), shape=(len(texts), size))
        self._labels = np.array([sample.attack for sample in texts])
        self._weights = np.array([settings.shop_weight if sample.source == SHOP else 1.0 for sample in texts])
        self._C = settings.C

    def fit(self, rows: npt.NDArray[np.bool_]) -> tuple[Floats, float]:
        """Weights [features] and bias, trained on the rows selected by the mask `rows` [texts]."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self._C, solver="liblinear", class_weight="balanced")
        model.fit(self._features[rows], self._labels[rows], sample_weight=self._weights[rows])
        return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def measure(classifier: Classifier, texts: Sequence[LabeledText]) -> dict[str, Any]:
    """Recall on the attacks in `texts`, false-positive rate on the shop's own texts, and both by source."""
    results = [(sample, classifier.is_attack(sample.text)) for sample in texts]

    def summary(flags: Sequence[bool]) -> dict[str, float]:
        return {"texts": len(flags), "flagged": sum(flags), "share": round(sum(flags) / max(1, len(flags)), 4)}

    def by_source(attack: bool) -> dict[str, dict[str, float]]:
        names = dict.fromkeys(sample.source for sample, _ in results if sample.attack == attack)
        return {
            name: summary([flag for sample, flag in results if sample.attack == attack and sample.source == name])
            for name in names
        }

    own = [flag for sample, flag in results if not sample.attack and sample.source in (SHOP, ARTICLES)]
    return {
        "injection_recall": summary([flag for sample, flag in results if sample.attack])["share"],
        "injection_fpr": summary(own)["share"],
        "threshold": round(classifier.info.threshold, 4),
        "attacks": by_source(attack=True),
        "others": by_source(attack=False),
    }


def gather(settings: PromptInjectionSettings, sources: Mapping[str, AttackSource]) -> list[LabeledText]:
    """All texts: the published datasets, the shop's conversations of the splits train and eval, and its articles.

    Raises:
        GraftError: a dataset cannot be downloaded, or `prepare` has not run.
    """
    own = frozenset(settings.own_attacks)
    texts = fetch_attacks(sources, frozenset(settings.exclude))
    for split in ("train", "eval"):
        messages = own_texts(load_examples(BUILT_EXAMPLES / f"{split}.parquet"), own)
        texts += [LabeledText(text, False, SHOP, split == "eval") for text in messages]
    texts += [LabeledText(text, False, ARTICLES, True) for text in paragraphs(KNOWLEDGE)]
    return without_repeats(texts, settings.near_duplicate_threshold)


def main() -> None:
    settings = load_settings().prompt_injection
    sources = load_attack_sources()
    texts = gather(settings, sources)
    print(f"prompt_injection: training on {count([t for t in texts if not t.held_out])}")
    licenses = {source.set: source.license for source in sources.values()}
    scores = build(settings, texts, licenses, BUILT_PROMPT_INJECTION)
    print(f"prompt_injection: recall {scores['injection_recall']:.3f}, false positives {scores['injection_fpr']:.4f}")


if __name__ == "__main__":
    run_main(main)
