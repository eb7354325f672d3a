"""State of version 0.1 on disk: this version reads, serves, judges and rolls back to it, with the same numbers.

`tests/data/state_0_1` was written by version 0.1; `tests/data/make_state_0_1.py` says how. Nothing there is
ever written anew: a change that requires another file or number of it breaks what people have on their disks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, TypeAdapter

from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.guardrails.checks import CheckFinding
from deployments.core.messages import ToolStep
from deployments.serve import rollout
from deployments.serve.promotion import production_digest, serve_production, switch_production
from tasks.core.paths import CLASSIFIERS, EMBEDDINGS, INDEX_TABLES, INDEXES, VISITORS_KEY
from tasks.core.records import Message
from tasks.core.renamed_keys import RENAMED_KEYS, new_names
from tasks.core.settings import (
    AdmissionSettings,
    CanaryAnalysisSettings,
    DriftSettings,
    EfficiencyMetric,
    GateSettings,
    RateMetric,
    RetrievalSettings,
    load_settings,
)
from tasks.engine.loading import open_package
from tasks.engine.probes import Probes, check_probes
from tasks.engine.protocol import SamplingParams, generate
from tasks.engine.resources import Resources
from tasks.evaluation.outputs import read_outputs
from tasks.gate.verdict import decide_gate
from tasks.model_package.admission import admit
from tasks.model_package.manifest import BaseModelInfo, Manifest, read_manifest
from tasks.monitoring.drift import COLUMNS, monitor, reference_path
from tasks.monitoring.telemetry_row import TelemetryRow
from tasks.monitoring.telemetry_store import TelemetryWriter, read_window
from tasks.registry.audit_log import Entry, read_audit
from tasks.registry.registry import PRODUCTION, Act, Channel, LocalRegistry, open_registry
from tasks.reports.releases import describe, find, listing, to_go_back_to
from tasks.retrieval.chunks import Passage
from tasks.retrieval.embedder import Embedder, EmbeddingInfo
from tasks.retrieval.index_files import Expansion, IndexInfo
from tasks.retrieval.search import PassageIndex, Retriever
from tasks.rollout.canary_analysis import MEASURES, CanaryVerdict, analyze_canary
from tasks.rollout.canary_metrics import shadow_pairs
from tasks.rollout.incidents import Closing, Incident, close, incidents
from tasks.rollout.shadow_comparison import ShadowPair, agreement
from tasks.safety.injection_classifier import ClassifierInfo, open_classifier
from tasks.tools.policy import Decision
from tests.conftest import ROOT
from tests.support.fake_serve_api import pretended_serve
from tests.support.prefect_stack import copy_repository
from tests.support.ray_stack import make_package

STORED = Path(__file__).parents[1] / "data/state_0_1"
EXPECTED = json.loads((STORED / "expected.json").read_bytes())
A, B = EXPECTED["packages"]["a"], EXPECTED["packages"]["b"]
ONE_THREAD = Resources(threads=1, cache_gb=1, in_subprocess=False)
HOUR = timedelta(hours=1)
SHADOWED, CANARY = datetime(2026, 1, 26, 10, tzinfo=UTC), datetime(2026, 1, 26, 12, tzinfo=UTC)
NOW = datetime(2026, 1, 28, 6, tzinfo=UTC)
JANUARY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))


def settings(section: str) -> dict[str, Any]:
    """A section of the params.yaml that the numbers were computed with, under today's names."""
    return renamed(RENAMED_KEYS.get(section, section), json.loads((STORED / "settings.json").read_bytes())[section])


def renamed(section: str, values: dict[str, Any]) -> dict[str, Any]:
    inner = {name: renamed(f"{section}.{name}", v) if isinstance(v, dict) else v for name, v in values.items()}
    return new_names(section, inner)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the state, as `.graft` of the working directory."""
    shutil.copytree(STORED / "state", tmp_path / ".graft")
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".graft"


@pytest.fixture
def registry(state: Path) -> LocalRegistry:
    """The registry at its default location."""
    assert (state / "registry").is_dir()
    return LocalRegistry()


@pytest.fixture
def rows(state: Path) -> pd.DataFrame:
    """All telemetry."""
    assert (state / "telemetry").is_dir()
    return read_window(*JANUARY)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal to every digit that a sum in another order leaves."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, (item, expected_item) in enumerate(zip(found, expected, strict=True)):
            assert_same(item, expected_item, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12), where
    else:
        assert found == expected, where


def dumped(*records: BaseModel | None) -> list[Any]:
    return [record.model_dump(mode="json") if record else None for record in records]


def test_releases_history_and_audit_are_reported_as_they_were(registry: LocalRegistry) -> None:
    assert registry.packages() == sorted([A, B])
    assert [(swap.name, swap.digest, swap.reason, swap.act and swap.act.who) for swap in registry.history()] == [
        ("production", A, "the first release", None),
        ("production", B, "by release run brave-otter", None),
        ("production", A, "answers in French", "Ada"),
        ("trial", B, "to try it on the staff", "Grace"),
        ("production", B, "by release run calm-newt", "Ada"),
    ]
    assert_same(dumped(*registry.history()), EXPECTED["history"])
    for name, channel in EXPECTED["channels"].items():
        assert_same(dumped(registry.channel(name)), [channel])
    assert_same(dumped(*read_audit(registry)), EXPECTED["audit"])
    assert listing(registry) == EXPECTED["listing"]
    assert (find(registry, PRODUCTION), find(registry, A[:6]), to_go_back_to(registry)) == (B, A, A)
    for digest in (A, B):
        assert describe(registry, digest) == EXPECTED["described"][digest]


def test_incidents_are_listed_and_the_open_one_is_closed(state: Path) -> None:
    assert (state / "incidents").is_dir()
    closed, still_open = incidents()
    assert_same(dumped(closed, still_open), EXPECTED["incidents"])
    assert closed.closed and (closed.closed.by, closed.closed.why) == ("Ada", "the errors were the network's")
    assert (still_open.closed, still_open.report.digest, still_open.report.measure) == (None, A, "slow")
    close(still_open.id, "Grace", "a slow disk", NOW)
    assert [one.closed and one.closed.by for one in incidents()] == ["Ada", "Grace"]


@pytest.mark.parametrize("digest", [A, B])
def test_a_package_is_admitted_and_answers_as_it_did(registry: LocalRegistry, digest: str) -> None:
    registry.verify(digest)
    package, base = registry.package(digest), registry.base(digest)
    admission: AdmissionSettings = load_settings(ROOT / "params.yaml").admission
    manifest = admit(digest, package, base, admission)
    assert (manifest.name, manifest.engine.name, manifest.max_prompt_tokens) == ("tiny-desk", "transformers", 600)
    model = open_package(package, base, ONE_THREAD)
    check_probes(model, package)
    answers = EXPECTED["answers"][digest]
    sampling = SamplingParams(max_new_tokens=24)
    requests = [model.request([Message(role="user", content=a["question"])], sampling=sampling) for a in answers]
    found = dict(generate(model.engine, requests, len(requests)))
    assert [found[index].text for index in range(len(answers))] == [answer["text"] for answer in answers]
    assert [list(found[index].token_ids) for index in range(len(answers))] == [
        answer["token_ids"] for answer in answers
    ]


def test_a_packages_grounding_names_the_index_and_the_retrieval_model(registry: LocalRegistry) -> None:
    early, grounded = (read_manifest(registry.package(digest)).grounding for digest in (A, B))
    assert early is None
    assert grounded and (grounded.index, grounded.embedding) == (
        EXPECTED["search"]["index"],
        EXPECTED["search"]["embedding"],
    )


_RENAMED_FIELDS = {"costs": "efficiency"}
"""Fields of a verdict, which is nowhere kept, by their names in 0.1 and today."""
_SENTENCES = ("reasons", "sentences")
"""Fields of a verdict with sentences for a person, which may be worded anew: only their number is compared."""


def in_numbers(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict under today's names of its fields, with the number of its sentences in their place."""
    fields = {_RENAMED_FIELDS.get(name, name): value for name, value in verdict.items()}
    return fields | {name: len(fields[name]) for name in _SENTENCES if name in fields}


def test_the_gate_comes_to_the_same_verdict(registry: LocalRegistry) -> None:
    rows, rates = read_outputs(B, registry.evaluation(B), STORED / "assistant")
    verdict = decide_gate(rows, rates, GateSettings.model_validate(settings("gate")))
    assert verdict.outcome == "pass"
    assert_same([in_numbers(*dumped(verdict))], [in_numbers(EXPECTED["gate"])])


def canary_verdict(rows: pd.DataFrame, start: datetime, *, unseen: bool) -> CanaryVerdict:
    analysis = CanaryAnalysisSettings.model_validate(settings("guard"))
    return analyze_canary(rows, B, A, start, start + HOUR, analysis, first_token_s=8.0, unseen=unseen)


def test_canary_analysis_comes_to_the_same_verdict_of_the_canary(rows: pd.DataFrame) -> None:
    verdict = canary_verdict(rows, CANARY, unseen=False)
    assert verdict.outcome == "breach"
    assert_same([in_numbers(*dumped(verdict))], [in_numbers(EXPECTED["canary"])])


def test_canary_analysis_comes_to_the_same_verdict_of_the_shadow(rows: pd.DataFrame) -> None:
    assert_same([in_numbers(*dumped(canary_verdict(rows, SHADOWED, unseen=True)))], [in_numbers(EXPECTED["shadow"])])
    assert_same(dumped(agreement(shadow_pairs(rows, B, A, SHADOWED))), [EXPECTED["agreement"]])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The state in a copy of the repository, behind a pretended Serve; the package served after `graft up`."""
    repository = copy_repository(tmp_path / "repository")
    shutil.copytree(STORED / "state", repository / ".graft")
    monkeypatch.chdir(repository)
    with pretended_serve():
        assert serve_production() is None
        yield str(rollout.served().production)


def test_production_goes_back_to_the_package_before(served: str) -> None:
    registry = open_registry()
    assert served == production_digest() == B
    switch_production(to_go_back_to(registry), B, "answers too late", Act(action="rollback", who="Grace"))
    assert rollout.served().production == production_digest() == A
    *before, last = registry.history()
    assert_same(dumped(*before), EXPECTED["history"])
    assert (last.digest, last.previous, last.reason) == (A, B, "answers too late")
    assert last.act == Act(action="rollback", who="Grace")
    *_, entry = read_audit(registry, A)
    assert (entry.action, entry.who, entry.channel) == ("rollback", "Grace", PRODUCTION)


def test_all_telemetry_is_read_before_and_after_a_new_writer_closes_what_a_dead_one_left(rows: pd.DataFrame) -> None:
    stored = pd.read_parquet(STORED / "telemetry.parquet")
    opened = list(Path(".graft/telemetry").glob("day=*/open-*.jsonl"))
    assert [path.parent.name for path in opened] == ["day=2026-01-27"]
    pd.testing.assert_frame_equal(rows[list(stored)], stored)
    TelemetryWriter(rows_per_part=10).close()
    assert not opened[0].exists()
    pd.testing.assert_frame_equal(read_window(*JANUARY)[list(stored)], stored)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("steps", tuple[ToolStep, ...]),
        ("passages", tuple[str, ...]),
        ("findings", tuple[CheckFinding, ...]),
        ("decisions", tuple[Decision, ...]),
        ("shadow", ShadowPair),
    ],
)
def test_what_telemetry_holds_as_json_is_written_as_it_is_read(rows: pd.DataFrame, column: str, kind: Any) -> None:
    texts = set(rows[column].dropna()) - {""}
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert texts
    assert {adapter.dump_json(adapter.validate_json(text)).decode() for text in texts} == texts


def test_monitoring_finds_the_same_drift(registry: LocalRegistry) -> None:
    assert reference_path(B).is_file(), "it would be written anew"
    verdict, folder = monitor(registry, DriftSettings.model_validate(settings("drift")), NOW)
    assert (verdict.outcome, verdict.digest) == ("drift", B)
    assert_same(dumped(verdict), [EXPECTED["drift"]])
    assert folder == Path(".graft/reports/drift/2026-01-28T06-00-00Z")


def test_the_published_index_is_searched_with_the_same_hits(state: Path) -> None:
    assert (state / "indexes").is_dir()
    search = EXPECTED["search"]
    passages = PassageIndex(INDEXES / search["index"], INDEX_TABLES, RetrievalSettings(**settings("retrieval")))
    retriever = Retriever(passages, Embedder(EMBEDDINGS / search["embedding"], threads=1))
    for query, expected in search["hits"].items():
        hits = retriever.search(query, 3)
        assert [hit.chunk.id for hit in hits] == [chunk for chunk, _, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score, _ in expected], rel=1e-12)
        assert [hit.cosine for hit in hits] == pytest.approx([cosine for _, _, cosine in expected], abs=1e-6)


def test_the_published_classifier_tells_an_attack_by_the_same_scores(state: Path) -> None:
    assert (state / "classifiers").is_dir()
    classifier = open_classifier(CLASSIFIERS / EXPECTED["classifier"])
    for text in EXPECTED["attacks"]:
        assert classifier.score(text["text"]) == pytest.approx(text["score"], abs=1e-6)
        assert classifier.is_attack(text["text"]) is text["attack"]


def test_a_customer_keeps_the_name_that_telemetry_has(state: Path) -> None:
    assert (state / "visitors.key").is_file()
    assert Pseudonyms.open(VISITORS_KEY).pseudonym("user:C-1") == EXPECTED["visitor"]


@pytest.mark.parametrize(
    ("files", "record"),
    [
        ("registry/channels/*.json", Channel),
        ("registry/history/*/*.json", Channel),
        ("registry/history.jsonl", Channel),
        ("registry/audit/*/*.json", Entry),
        ("registry/bases/*/base.json", BaseModelInfo),
        ("registry/packages/*/manifest.json", Manifest),
        ("registry/packages/*/parity.json", Probes),
        ("incidents/*.opened.json", Incident),
        ("incidents/*.closed.json", Closing),
        ("embeddings/*/embedding.json", EmbeddingInfo),
        ("indexes/*/index.json", IndexInfo),
        ("indexes/*/chunks.jsonl", Passage),
        ("indexes/*/asked.jsonl", Expansion),
        ("classifiers/*/injection.json", ClassifierInfo),
    ],
)
def test_each_record_is_written_as_it_is_read(files: str, record: type[BaseModel]) -> None:
    paths = list((STORED / "state").glob(files))
    assert paths
    for path in paths:
        content = path.read_text(encoding="utf-8")
        for text in content.splitlines() if path.suffix == ".jsonl" else [content]:
            read = record.model_validate_json(text)
            assert read.model_dump(mode="json", exclude_unset=True) == json.loads(text), path


def keys(value: Any) -> Any:
    """The names in a JSON value, at any depth; of a list those in its first item."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return keys(value[0]) if isinstance(value, list) and value else None


def test_a_package_made_today_has_the_names_of_the_stored_one(registry: LocalRegistry, tmp_path: Path) -> None:
    stored = registry.package(A)
    made = make_package(tmp_path / "made", 1, registry.base(A), stored / "prompt")
    for name in ("manifest.json", "parity.json"):
        made_names, stored_names = (keys(json.loads((package / name).read_bytes())) for package in (made, stored))
        assert made_names == stored_names, name


def test_a_telemetry_row_has_all_columns_of_the_stored_parts(state: Path) -> None:
    names = EXPECTED["names"]["telemetry"]
    assert [name for name in TelemetryRow.model_fields if name in names] == names
    for path in state.glob("telemetry/day=*/part-*.parquet"):
        assert set(pq.read_schema(path).names) <= set(names)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("rates", lambda: get_args(RateMetric)),
        ("costs", lambda: get_args(EfficiencyMetric)),
        ("measures", lambda: MEASURES),
        ("drift", lambda: COLUMNS),
    ],
)
def test_rates_costs_measures_and_columns_bear_their_names(kind: str, names: Callable[[], tuple[str, ...]]) -> None:
    assert list(names()) == EXPECTED["names"][kind]
