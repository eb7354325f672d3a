"""Stage `prompt_injection`: a small classifier of texts that try to take over the assistant.

Logistic regression on words and pieces of words, learnt from published labelled attacks and from
the shop's own conversations. The threshold is set where few of the shop's own turns are
taken for attacks by a classifier that did not learn from them. It sees the wording of an attack,
not whether a request is allowed: that is policy. Scoring needs none of this: `tasks/safety/injection_classifier.py`.
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
ARTICLES = "knowledge"


def own_texts(examples: Sequence[Example], own_attacks: frozenset[str]) -> list[str]:
    """What customers and the desk say in `examples`, without the rows whose id or label is among `own_attacks`.

    The desk's words teach how the shop's articles sound, which the model will read as data.
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
    found: list[str] = []
    heading = ""
    for path in sorted(folder.glob("*.md")):
        for block in filter(None, map(str.strip, path.read_text(encoding="utf-8").split("\n\n"))):
            if block.startswith("#"):
                heading = f"{block}\n\n"
            else:
                found.append(heading + block)
                heading = ""
    return found


def build(
    settings: PromptInjectionSettings, texts: Sequence[LabeledText], licenses: Mapping[str, str], target: Path
) -> dict[str, Any]:
    """Learn from `texts`, measure on those held out, write all of it; `target` is whole or untouched.

    Args:
        settings: the section `prompt_injection`.
        texts: with `held_out` set on those to measure on.
        licenses: of each published dataset among the texts, by its name.
        target: folder of the classifier.

    Returns:
        What `scores.json` holds.

    Raises:
        GraftError: there is too little to learn from.
    """
    learnt = [labelled for labelled in texts if not labelled.held_out]
    if not {True, False} <= {t.attack for t in learnt} or sum(t.source == SHOP for t in learnt) < settings.folds:
        raise GraftError(f"injection: nothing to tell apart in {count(learnt)}; see {PROMPT_INJECTION_SOURCES}")
    with new_folder(target) as folder:
        _fit(settings, learnt, licenses, folder)
        scores = measure(open_classifier(folder), [labelled for labelled in texts if labelled.held_out])
        write_json(folder / SCORES, scores)
    return scores


def _fit(
    settings: PromptInjectionSettings, texts: Sequence[LabeledText], licenses: Mapping[str, str], folder: Path
) -> None:
    pieces, idf = _vocabulary(texts, settings)
    features = NgramMatrix({piece: place for place, piece in enumerate(pieces)}, idf)
    table = _Table(texts, features, len(pieces), settings)
    weight, bias = table.fit(np.ones(len(texts), dtype=bool))
    write_text(folder / VOCABULARY, json.dumps(pieces, ensure_ascii=False))
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
    texts: Sequence[LabeledText], features: NgramMatrix, table: _Table, settings: PromptInjectionSettings
) -> float:
    """The score that the allowed share of the shop's own turns exceeds, each scored by a fit without it."""
    shop = np.array([place for place, labelled in enumerate(texts) if labelled.source == SHOP])
    scores: list[float] = []
    for fold in range(settings.folds):
        mine = shop[fold :: settings.folds]
        weight, bias = table.fit(~np.isin(np.arange(len(texts)), mine))
        info = ClassifierInfo(bias=bias, threshold=0.0, window_words=settings.window_words, sources={}, files={})
        scores += [Classifier(features, weight, info).score(texts[place].text) for place in mine]
    return float(np.quantile(scores, 1 - settings.max_false_positive_rate))


def _vocabulary(texts: Sequence[LabeledText], settings: PromptInjectionSettings) -> tuple[list[str], Floats]:
    """The pieces that are in most texts, and their idf [pieces]; ties go by the alphabet."""
    found: Counter[str] = Counter()
    for labelled in texts:
        found.update(count_ngrams(labelled.text).keys())
    often = [(piece, n) for piece, n in found.items() if n >= settings.min_df]
    kept = sorted(often, key=lambda pair: (-pair[1], pair[0]))[: settings.max_features]
    idf = np.log((1 + len(texts)) / (1 + np.array([n for _, n in kept], dtype=np.float64))) + 1
    return [piece for piece, _ in kept], idf.astype(np.float32)


class _Table:
    """The texts as scikit-learn reads them: features [texts, pieces], labels [texts] and weights [texts]."""

    def __init__(
        self, texts: Sequence[LabeledText], features: NgramMatrix, pieces: int, settings: PromptInjectionSettings
    ) -> None:
        from scipy.sparse import csr_matrix

        vectors = [features(labelled.text) for labelled in texts]
        starts = np.cumsum([0, *(len(places) for places, _ in vectors)])
        places, values = (np.concatenate(part) for part in zip(*vectors, strict=True))
        self._features = csr_matrix((values.astype(np.float64), places, starts), shape=(len(texts), pieces))
        self._labels = np.array([labelled.attack for labelled in texts])
        self._weights = np.array([settings.shop_weight if labelled.source == SHOP else 1.0 for labelled in texts])
        self._C = settings.C

    def fit(self, rows: npt.NDArray[np.bool_]) -> tuple[Floats, float]:
        """Weights [pieces] and bias, learnt from the chosen rows [texts]."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self._C, solver="liblinear", class_weight="balanced")
        model.fit(self._features[rows], self._labels[rows], sample_weight=self._weights[rows])
        return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def measure(classifier: Classifier, texts: Sequence[LabeledText]) -> dict[str, Any]:
    """Recall on the attacks among `texts`, share of the shop's own that is taken for one, and both by source."""
    verdicts = [(labelled, classifier.is_attack(labelled.text)) for labelled in texts]

    def share(found: Sequence[bool]) -> dict[str, float]:
        return {"texts": len(found), "flagged": sum(found), "share": round(sum(found) / max(1, len(found)), 4)}

    def by_source(attack: bool) -> dict[str, dict[str, float]]:
        names = dict.fromkeys(labelled.source for labelled, _ in verdicts if labelled.attack == attack)
        return {
            name: share([v for labelled, v in verdicts if labelled.attack == attack and labelled.source == name])
            for name in names
        }

    own = [v for labelled, v in verdicts if not labelled.attack and labelled.source in (SHOP, ARTICLES)]
    return {
        "injection_recall": share([v for labelled, v in verdicts if labelled.attack])["share"],
        "injection_fpr": share(own)["share"],
        "threshold": round(classifier.info.threshold, 4),
        "attacks": by_source(attack=True),
        "others": by_source(attack=False),
    }


def gather(settings: PromptInjectionSettings, sources: Mapping[str, AttackSource]) -> list[LabeledText]:
    """All texts: the published sets, the shop's conversations of the train and eval split, its articles.

    Raises:
        GraftError: a set cannot be had, or `prepare` has not run.
    """
    own = frozenset(settings.own_attacks)
    texts = fetch_attacks(sources, frozenset(settings.exclude))
    for split in ("train", "eval"):
        said = own_texts(load_examples(BUILT_EXAMPLES / f"{split}.parquet"), own)
        texts += [LabeledText(text, False, SHOP, split == "eval") for text in said]
    texts += [LabeledText(text, False, ARTICLES, True) for text in paragraphs(KNOWLEDGE)]
    return without_repeats(texts, settings.near_duplicate_threshold)


def main() -> None:
    settings = load_settings().prompt_injection
    sources = load_attack_sources()
    texts = gather(settings, sources)
    print(f"injection: learns from {count([t for t in texts if not t.held_out])}")
    licenses = {source.set: source.license for source in sources.values()}
    scores = build(settings, texts, licenses, BUILT_PROMPT_INJECTION)
    print(f"injection: recall {scores['injection_recall']:.3f}, false positives {scores['injection_fpr']:.4f}")


if __name__ == "__main__":
    run_main(main)
