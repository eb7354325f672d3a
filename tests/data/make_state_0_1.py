"""How `tests/data/state_0_1` was made: what version 0.1 writes, in miniature, and what it reads from that.

It ran once, at version 0.1 (commit 3e3f7e4), and runs only there: it imports that version's modules.

    .venv/bin/pytest tests/data/make_state_0_1.py

    state/              what lay in `.graft`: two packages in a registry with a history, incidents, telemetry
                        of three days, a retrieval model, an index, a classifier, drift references
    assistant/          what the stage `assistant` left of the package in production
    settings.json       the sections of `params.yaml` that figures depend on
    expected.json       what 0.1 found in all of it
    telemetry.parquet   the telemetry rows as 0.1 read them

Weights, rows and figures are drawn from seeds, dates are set. Running it again gives other digests even so: PEFT
writes an adapter's targets in any order, and incidents, segments and the visitors' key have random names or bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from deployments.app.safety.checks import Finding
from deployments.app.visitors import Pseudonyms
from deployments.events import Step
from pydantic import TypeAdapter
from tasks.arms import shadow_pairs
from tasks.audit import note, read_audit
from tasks.drift import COLUMNS, monitor, write_reference
from tasks.engine.open import open_package
from tasks.evidence import read_evidence
from tasks.expected import Expected
from tasks.files import write_json, write_text
from tasks.full_card import PICTURE, gather
from tasks.incidents import Report, close, incidents, open_incident
from tasks.layout import CLASSIFIERS, EMBEDDINGS, INDEX_TABLES, INDEXES, REGISTRY, TELEMETRY, VISITORS_KEY
from tasks.manifest import ADAPTER, PROVENANCE, Fidelity, Grounding, Manifest, package_digest, read_manifest
from tasks.policy import Decision
from tasks.rates import Rate
from tasks.records import Example, Message, ToolCall
from tasks.redteam import read_attacks
from tasks.releases import describe as describe_release
from tasks.releases import listing, to_go_back_to
from tasks.settings import CostName, EmbeddingSettings, RateName, RetrievalSettings, load_settings
from tasks.shadow import SHADOW, Answered, agreement, pair
from tasks.store import SCHEMA, TelemetryRow, TelemetryWriter, read_window
from tasks.terms import load_terms
from tests.attacks import ATTACKS, HARMLESS, tiny_settings, tiny_texts
from tests.tasks.traffic import failure, row
from transformers import LlamaConfig, LlamaForCausalLM

from tasks import assistant, classifier, embedding, evaluate, gate, guard, index
from tasks.base import describe
from tasks.embedding import Embedder
from tasks.engine.protocol import Generation
from tasks.engine.resources import Resources
from tasks.package import write_manifest
from tasks.prompt import Answer
from tasks.registry import PRODUCTION, Act, LocalRegistry
from tasks.retrieval import Passages, Retriever
from tests.conftest import ROOT, embedding_source, make_tokenizer
from tests.deployments.stack import make_package

TARGET = Path(__file__).parent / "state_0_1"
OLDEST = (
    *("trace_id", "at", "digest", "status", "error", "stream", "latency_ms", "first_token_ms", "queue_ms"),
    *("user_chars", "turns", "prompt_tokens", "completion_tokens", "answer_chars", "finish_reason", "tool_name"),
    *("refused", "valid_format"),
)
"""The columns of the first version that kept telemetry (commit 6d5f344)."""
KNOWLEDGE = {
    "delivery.md": "# Delivery\n\n## Days\n\nParcels leave on weekdays.\n\n## Cost\n\nPostage is 4 pounds.\n",
    "roses.md": "# Roses\n\n## Pruning\n\nPrune them in March.\n\n## Guarantee\n\nOur roses are guaranteed.\n",
    "returns.txt": "Send seed back within 14 days.\n",
}
ASKED = {"article": "roses.md", "heading": "Pruning", "asked": ["when do I cut my roses", "is it time to prune"]}
QUERIES = ("when do I cut a rose", "is anything guaranteed?", "what does postage cost", "14 days")
QUESTIONS = ("Where is my order?", "When do I prune roses?")
REPOSITORY = load_settings(ROOT / "params.yaml")
SETTINGS = REPOSITORY.model_copy(
    update={
        "drift": REPOSITORY.drift.model_copy(update={"resamples": 100}),
        "retrieval": REPOSITORY.retrieval.model_copy(update={"floor": -1.0, "asked_floor": -1.0}),
    }
)
TERMS = load_terms(ROOT / "data/contract.yaml")
RUN = "release run brave-otter"
FIND = ToolCall(name="find_order", arguments={"order_id": "HL-10001"})
SHADOWED, CANARY = datetime(2026, 1, 26, 10, tzinfo=UTC), datetime(2026, 1, 26, 12, tzinfo=UTC)
"""When B began to be the shadow, and the canary; each for an hour."""
SERVED = datetime(2026, 1, 27, 9, tzinfo=UTC)
NOW = datetime(2026, 1, 28, 6, tzinfo=UTC)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets what registry and audit log take for now."""

    def set_to(moment: datetime) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return moment

        for module in ("tasks.registry", "tasks.audit"):
            monkeypatch.setattr(f"{module}.datetime", Clock)

    return set_to


def test_make_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Callable[[datetime], None],
    tiny_prompts: Path,
    tiny_embedding: Path,
) -> None:
    """Write all of it in a folder of its own, where paths are short and relative, and move it here."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_embedding, "retrieval")
    grounding = make_index()
    classified = make_classifier()
    first, second = make_packages(tiny_prompts, grounding)
    digests = publish(first, second, clock)
    Pseudonyms.open(VISITORS_KEY)
    write_telemetry(*digests)
    sections = {name: getattr(SETTINGS, name).model_dump(mode="json") for name in ("gate", "guard", "drift")}
    sections["retrieval"] = SETTINGS.retrieval.model_dump(mode="json")
    found = expected(*digests, grounding, classified)
    shutil.rmtree(TARGET, ignore_errors=True)
    read_window(at(1, 0), at(31, 0)).to_parquet("telemetry.parquet", index=False, compression="zstd")
    shutil.rmtree(INDEX_TABLES)
    shutil.rmtree(".graft/reports/drift")
    shutil.copytree(".graft", TARGET / "state")
    shutil.copytree("assistant-b", TARGET / "assistant")
    shutil.copy("telemetry.parquet", TARGET)
    write_json(TARGET / "settings.json", sections)
    write_json(TARGET / "expected.json", found)


def make_index() -> Grounding:
    """Publish the retrieval model and an index of a few sections."""
    given = {"name": "tiny", "licence": "MIT", "window": 80, **embedding_source(Path("retrieval"))}
    embedding.bring_in(EmbeddingSettings.model_validate(given), Path("embedding"))
    for name, text in KNOWLEDGE.items():
        write_text(Path("knowledge") / name, text)
    write_text(Path("asked.jsonl"), json.dumps(ASKED) + "\n")
    embedder = Embedder(Path("embedding"), threads=1)
    index.index_folder(Path("knowledge"), embedder, 80, Path("index"), Path("asked.jsonl"))
    return Grounding(
        index=index.publish(Path("index")),
        embedding=embedding.publish(Path("embedding")),
        passages=2,
        turns=3,
        known=8,
        retrieval=SETTINGS.retrieval,
    )


def make_classifier() -> str:
    from tasks.injection import build

    build(tiny_settings().model_copy(update={"pieces": 400}), tiny_texts(), Path("injection"))
    return classifier.publish(Path("injection"))


def make_packages(prompts: Path, grounding: Grounding) -> tuple[Path, Path]:
    """A, which has only what an early package had, and B, which has everything."""
    base = Path("base")
    base.mkdir()
    make_tokenizer().save("base/tokenizer.json")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=make_tokenizer().get_vocab_size(),
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.3,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(base)
    describe(base, source="test://tiny", sha256="0" * 64, licence="Apache-2.0")
    first, second = (make_package(Path(f"package-{seed}"), seed, base, prompts) for seed in (1, 2))
    complete(second, grounding)
    return first, second


def complete(package: Path, grounding: Grounding) -> None:
    """Give a package all that the stage `package` writes."""
    write_text(package / ADAPTER / PICTURE, "a picture")
    data = {"source": "tests", "training_rows": 90, "labels": {"order_status": 45, "plant_care": 45}, "files": {}}
    params = {"prepare": SETTINGS.prepare.model_dump(), "train": SETTINGS.train.model_dump(mode="json")}
    fidelity = Fidelity(rows=40, tokens=900, perplexity=3.25, float32_perplexity=3.2, greedy_agreement=0.985)
    told = {"data": data, "params": params, "fidelity": fidelity, "grounding": grounding}
    manifest: Manifest = read_manifest(package).model_copy(update=told)
    write_text(package / "card.md", "# tiny-desk\n")
    write_manifest(package, manifest)
    write_json(
        package / PROVENANCE,
        {"built_at": "2026-01-19T09:30:00+00:00", "git_revision": "3e3f7e4", "flow_run_id": "brave-otter"},
    )


def examples() -> list[Example]:
    """Twenty conversations of each kind that a label asks for."""
    kinds = {
        "order_status": (
            "Where is my order HL-{}, please? I have waited",
            Message(role="assistant", tool_calls=(FIND,)),
        ),
        "plant_care": ("When do I prune the roses in bed {}, which are old", says("Prune the roses in March.")),
        "private_data": ("Who lives at number {} and what did they buy", says("I can't say who bought that.")),
    }
    found = []
    for number in range(60):
        label, (asked, target) = list(kinds.items())[number % 3]
        user = Message(role="user", content=asked.format(10000 + number) + " for days" * (number % 7))
        found.append(
            Example(
                id=f"{label}-{number:03}", label=label, group="g", split="eval", source="x:1", messages=(user, target)
            )
        )
    return found


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


def evaluated(digest: str, right: dict[str, float], target: Path) -> None:
    """Rows and scores as the stage `evaluate` leaves them, of systems that are right so often."""
    draw = np.random.default_rng(3)
    rows = []
    for system, share in right.items():
        for example in examples():
            wanted = example.target
            good = Answer(wanted.content, wanted.tool_calls, True)
            answer = good if draw.random() < share else Answer("Please ask in the shop.", (), bool(draw.random() < 0.9))
            tokens = tuple(range(len(answer.content) // 4 + 8))
            first_ms = float(draw.uniform(40, 60))
            text = answer.content or "<tool_call>"
            generation = Generation(text, tokens, int(draw.integers(200, 300)), "stop", first_ms, 6 * first_ms)
            peak = {"base": 810.5, "incumbent": 815.25, "candidate": 820.0}[system]
            judged = evaluate.judge(example, ((generation, answer),), TERMS)
            rows.append({"system": system, **judged, "peak_memory_mb": peak})
    table = pd.DataFrame(rows)
    target.mkdir()
    table.to_parquet(target / evaluate.ROWS, index=False)
    write_json(target / evaluate.SCORES, {"digest": digest, "systems": evaluate.totals(table)})


def whole_turns(digest: str, target: Path) -> None:
    """Rows and rates as the stage `assistant` leaves them."""
    draw = np.random.default_rng(4)
    others = {
        "injection_recall": Rate(n=50, value=0.92),
        "injection_fpr": Rate(n=200, value=0.005),
        "recall_at_5": Rate(n=40, value=0.95),
    }
    rows = []
    for example in examples():
        good = bool(draw.random() < 0.85)
        calls = example.target.tool_calls if good else ()
        outcome = "ok" if example.target.tool_calls else None
        sections = ("roses.md#Pruning",) if example.label == "plant_care" else ()
        turn = assistant.Turn(
            id=example.id,
            status=200,
            text=example.target.content if good else "Please ask in the shop.",
            finish_reason="stop",
            blocked_by="",
            calls=calls,
            outcomes=("ok",) * len(calls),
            given=sections,
            cited=sections if good else (),
            violations=(),
            latency_ms=float(draw.uniform(300, 400)),
            queue_ms=1.5,
            engine_ms=250.0,
        )
        known = Expected(id=example.id, customer="C-1042", outcome=outcome, sections=sections)
        rows.append(assistant.judge(example, known, turn, TERMS, SETTINGS.tools.unfinished))
    assistant.write([*rows, *attacked()], digest, others, target)


def attacked() -> Iterator[dict[str, Any]]:
    """A few attacks, all of which a rule refused."""
    for attack in read_attacks(ROOT / "data/redteam/attacks.jsonl")[:4]:
        turn = assistant.Turn(
            id=attack.id,
            status=200,
            text="I can't help with that.",
            finish_reason=assistant.FILTERED,
            blocked_by="order_of_customer",
            calls=(),
            outcomes=(),
            given=(),
            cited=(),
            violations=(),
            latency_ms=12.5,
            queue_ms=0.0,
            engine_ms=0.0,
        )
        yield assistant.judge_attack(attack, turn, TERMS, SETTINGS.tools.unfinished)


def publish(first: Path, second: Path, clock: Callable[[datetime], None]) -> tuple[str, str]:
    """Publish both packages and move the channels: A, B, back to A, and B again."""
    registry, base = LocalRegistry(), Path("base")
    a, b = package_digest(first), package_digest(second)
    evaluated(a, {"base": 0.2, "candidate": 0.6}, Path("evaluation-a"))
    evaluated(b, {"base": 0.2, "incumbent": 0.6, "candidate": 0.85}, Path("evaluation-b"))
    whole_turns(b, Path("assistant-b"))
    gather(second, Path("evaluation-b"), Path("assistant-b"), Path("measured"), SETTINGS.gate, date(2026, 1, 19))
    clock(at(12, 9))
    registry.publish(first, base, Path("evaluation-a"))
    note(registry, "publish", a, "passed the gate", "release run first-heron", "first-heron")
    clock(at(12, 9, 30))
    registry.swap(PRODUCTION, a, None, "the first release")
    clock(at(19, 10))
    registry.publish(second, base, Path("measured"))
    note(registry, "publish", b, "passed the gate", RUN, "brave-otter")
    clock(at(19, 11))
    registry.swap(PRODUCTION, b, a, f"by {RUN}")
    as_written_before_swaps_had_files()
    clock(at(20, 8, 15))
    registry.swap(PRODUCTION, a, b, "answers in French", Act(action="rollback", who="Ada"))
    clock(at(20, 8, 20))
    note(registry, "reject", b, "not before it answers in English", "Ada")
    clock(at(25, 16))
    registry.swap("trial", b, None, "to try it on the staff", Act(action="promote", who="Grace"))
    clock(at(26, 17, 55))
    note(registry, "override", b, "the errors were the network's", "Ada", "calm-newt")
    clock(at(26, 18))
    registry.swap(PRODUCTION, b, a, "by release run calm-newt", Act(action="promote", who="Ada", run="calm-newt"))
    for digest in (a, b):
        write_reference(digest, registry)
    return a, b


def as_written_before_swaps_had_files() -> None:
    """Leave the swaps so far as the first versions did: lines of the history, and nothing of who made them."""
    lines = []
    for path in sorted((REGISTRY / "history" / PRODUCTION).iterdir()):
        swap = json.loads(path.read_bytes())
        del swap["act"]
        lines.append(json.dumps(swap))
        path.unlink()
    write_text(REGISTRY / "history.jsonl", "\n".join(lines) + "\n")
    write_json(REGISTRY / "channels" / f"{PRODUCTION}.json", json.loads(lines[-1]))


def write_telemetry(a: str, b: str) -> None:
    """Three days: the oldest version's rows, shadow and canary, and what B served, the last of it unfinished."""
    writer = TelemetryWriter(rows_per_part=10_000)
    for one in sorted([*shadowed(a, b), *compared(a, b)], key=lambda one: one.at):
        writer.append(one)
    served = list(answered(b))
    for one in served[:60]:
        writer.append(one)
    writer.close()
    older("day=2026-01-20", [change(one, at=at(20, 12), digest=a) for one in served[:5]])
    older("day=2026-01-27", served[60:70])
    dead = TelemetryWriter(rows_per_part=10_000)  # never closed: this process ends, and the file stays open
    for one in served[70:]:
        dead.append(one)
    (left,) = TELEMETRY.glob("day=*/open-*.jsonl")
    with left.open("a", encoding="utf-8") as file:
        told = change(served[0], trace_id="old-line", at=at(27, 20)).model_dump_json(include={*OLDEST})
        file.write(told + "\n" + told[:40])  # a row of the oldest version, and one that was cut short


def older(day: str, rows: Sequence[TelemetryRow]) -> None:
    """A part as the oldest version wrote it."""
    import pyarrow as pa

    table = pa.Table.from_pylist([one.model_dump() for one in rows], schema=SCHEMA).select(list(OLDEST))
    path = TELEMETRY / day / "part-17-0123456789ab.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def change(one: TelemetryRow, **fields: Any) -> TelemetryRow:
    return TelemetryRow.model_validate({**one.model_dump(), **fields})


def dumped(kind: Any, *values: Any) -> str:
    """As `deployments.app.telemetry` writes what it keeps as JSON."""
    return TypeAdapter(tuple[kind, ...]).dump_json(values).decode()


ALLOWED = Decision(rule="order_of_customer", owner="account team", outcome="allow", code="", reason="")
REFUSED = Decision(
    rule="order_of_customer", owner="account team", outcome="refuse", code="not_yours", reason="Not on your account."
)
FILLED: dict[str, Any] = {
    "queue_ms": 1.25,
    "cached_tokens": 120,
    "all_prompt_tokens": 420,
    "all_completion_tokens": 31,
    "engine_ms": 80.5,
    "steps": dumped(Step, Step(tool="find_order", outcome="ok", decisions=(ALLOWED,), found=("links",))),
    "passages": dumped(str, "roses.md#pruning", "delivery.md#cost"),
    "findings": dumped(
        Finding, Finding("personal", "redact", "email address", 0.5), Finding("injection", "pass", "", 0.25)
    ),
    "decisions": dumped(Decision, ALLOWED),
    "tool_name": "find_order",
}


def visitor(number: int) -> str:
    return Pseudonyms.open(VISITORS_KEY).of(f"user:C-{number}")


def shadowed(a: str, b: str) -> Iterator[TelemetryRow]:
    """Production's answers and the shadow's to the same requests."""
    draw = np.random.default_rng(5)
    for number in range(75):
        moment, ms = SHADOWED + timedelta(seconds=45 * number), float(draw.uniform(80, 120))
        trace = f"shadowed-{number}"
        told = {"trace_id": trace, "at": moment, "visitor": visitor(number % 70), "latency_ms": ms}
        yield change(row(0, a), **told, **FILLED)
        calls = (FIND,) if number % 3 == 0 else ()
        own = (FIND.model_copy(update={"arguments": {"order_id": "HL-2"}}),) if number % 6 == 0 else calls
        usual = Answered(a, "Prune the roses in March.", calls, number % 9 == 0, "stop", ms)
        text = "Prune roses in April." if number % 4 == 0 else usual.text
        other = Answered(b, text, own, number % 8 == 0, "stop", ms * float(draw.uniform(0.8, 1.3)))
        compared = {"route": SHADOW, "operation": SHADOW, "meant": "", "cache": ""}
        if number % 25 == 24:
            yield change(failure(0, b, status=504), **told | compared)
        else:
            said = pair(trace, moment, usual, other).model_dump_json()
            yield change(row(0, b), **told | compared, shadow=said, refused=other.refused)


def compared(a: str, b: str) -> Iterator[TelemetryRow]:
    """The hour before the canary, its hour, and what is not to be counted."""
    draw = np.random.default_rng(6)
    for number in range(60):
        moment = CANARY - timedelta(seconds=50 * (number + 1))
        yield change(row(0, a), trace_id=f"before-{number}", at=moment, latency_ms=float(draw.uniform(80, 120)))
    for number in range(330):
        digest, route = ((b, "canary"), (a, PRODUCTION))[number % 2]
        told = {"trace_id": f"compared-{number}", "at": CANARY + timedelta(seconds=10 * number), "route": route}
        told |= {"meant": digest, "visitor": visitor(number // 2 * 2 % 300 + number % 2), "stream": number % 3 == 0}
        told["latency_ms"] = float(draw.uniform(80, 130 if digest == b else 120))
        place = number // 2
        if digest == b and place % 6 == 5:
            yield change(failure(0, b), **told)
        elif digest == b and place % 6 == 2:
            passed = {"route": PRODUCTION, "passed_over": "canary=engine_error", "retries": 1}
            yield change(row(0, a), **told | FILLED | passed)
        elif place % 30 == 7:
            blocked = {"decisions": dumped(Decision, REFUSED), "blocked_by": "order_of_customer", "refused": True}
            yield change(row(0, digest), **told | FILLED | blocked)
        elif digest == a and place % 40 == 13:
            yield change(failure(0, a), **told)
        else:
            yield change(row(0, digest), **told | (FILLED if place % 2 else {}), refused=place % 10 == 0)
    yield from not_counted(a, b)


def not_counted(a: str, b: str) -> Iterator[TelemetryRow]:
    """A row of each kind that the guard leaves out, or counts otherwise."""
    kinds: dict[str, TelemetryRow] = {
        "hit": change(row(0, b), cache="hit", meant=b),
        "semantic": change(row(0, b), cache="semantic", meant=b),
        "redteam": change(row(0, b), owner="redteam", meant=b),
        "by-digest": change(row(0, b), route="digest", meant=b),
        "continued": change(row(0, a), operation="text_completion"),
        "embedded": change(row(0, a), operation="embeddings", digest="e" * 64, meant=""),
        "busy": failure(0, a, status=429),
        "left": change(failure(0, b, status=499), route="canary", meant=b, error="client_closed"),
        "open-circuit": change(row(0, a), passed_over="canary=circuit_open", meant=b),
        "words": change(failure(0, "", status=200), route="words", error="", meant=a),
        "unread": failure(0, "", status=400, route="", meant="", owner="", visitor=""),
    }
    for number, (name, one) in enumerate(kinds.items()):
        yield change(one, trace_id=name, at=CANARY + timedelta(minutes=56, seconds=number), visitor=one.visitor or name)


def answered(b: str) -> Iterator[TelemetryRow]:
    """What B served: evaluated answers again, but customers write more and are told more."""
    reference = pd.read_parquet(f".graft/reports/reference/{b}.parquet")
    drawn = reference.sample(90, replace=True, random_state=8).to_dict("records")
    for number, features in enumerate(drawn):
        longer = {"user_chars": features["user_chars"] * 2, "answer_chars": int(features["answer_chars"] * 1.6)}
        told = {"trace_id": f"served-{number}", "at": SERVED + timedelta(minutes=5 * number), "meant": b}
        yield change(row(0, b), **FILLED | features | longer | told, route=PRODUCTION, visitor=visitor(number))


def expected(a: str, b: str, grounding: Grounding, classified: str) -> dict[str, Any]:
    """What this version finds."""
    registry, rows = LocalRegistry(), read_window(at(1, 0), at(31, 0))
    canary, shadow, pairs = judged(rows, a, b)
    opened_and_closed(canary, a)
    return {
        "packages": {"a": a, "b": b},
        "channels": {name: dump(registry.channel(name)) for name in (PRODUCTION, "trial")},
        "history": [dump(swap) for swap in registry.history()],
        "audit": [dump(entry) for entry in read_audit(registry)],
        "incidents": [dump(one) for one in incidents()],
        "listing": listing(registry),
        "described": {digest: describe_release(registry, digest) for digest in (a, b)},
        "goes_back_to": to_go_back_to(registry),
        "answers": {digest: answers(registry, digest) for digest in (a, b)},
        "gate": dump(gate.judge(*read_evidence(b, registry.evaluation(b), Path("assistant-b")), SETTINGS.gate)),
        "canary": dump(canary),
        "shadow": dump(shadow),
        "agreement": dump(agreement(pairs)),
        "drift": dump(monitor(registry, SETTINGS.drift, NOW)[0]),
        "search": {"index": grounding.index, "embedding": grounding.embedding, "hits": searched(grounding)},
        "classifier": classified,
        "attacks": scored(classified),
        "visitor": visitor(1),
        "names": names(),
    }


def dump(record: Any) -> Any:
    return record.model_dump(mode="json")


def judged(rows: pd.DataFrame, a: str, b: str) -> tuple[guard.GuardVerdict, guard.GuardVerdict, list[Any]]:
    hour = timedelta(hours=1)
    canary = guard.judge(rows, b, a, CANARY, CANARY + hour, SETTINGS.guard, first_token_s=8.0)
    shadow = guard.judge(rows, b, a, SHADOWED, SHADOWED + hour, SETTINGS.guard, first_token_s=8.0, unseen=True)
    return canary, shadow, shadow_pairs(rows, b, a, SHADOWED)


def opened_and_closed(canary: guard.GuardVerdict, a: str) -> None:
    """The canary's breach, which Ada closed, and another incident that is open."""
    found = open_incident(guard.report(canary, PRODUCTION, "canary 50"), canary.at)
    close(found.id, "Ada", "the errors were the network's", at(26, 15))
    slow = Report(
        what="The canary is worse than its margins allow: slow answers.",
        digest=a,
        channel=PRODUCTION,
        phase="canary 5",
        measure="slow",
        numbers={"canary": 0.4, "production": 0.05, "increase": 0.35, "low": 0.2, "high": 0.5, "margin": 0.1},
    )
    open_incident(slow, at(27, 7))


def answers(registry: LocalRegistry, digest: str) -> list[dict[str, Any]]:
    """Greedy answers of an opened package."""
    resources = Resources(threads=1, cache_gb=1, apart=False)
    model = open_package(registry.package(digest), registry.base(digest), resources)
    found = []
    for question in QUESTIONS:
        request = model.request([Message(role="user", content=question)], max_new_tokens=24)
        model.engine.submit(0, request)
        chunks = []
        while not chunks or chunks[-1].finish_reason is None:
            chunks += model.engine.step()
        ids = [token for chunk in chunks for token in chunk.token_ids]
        found.append({"question": question, "text": "".join(chunk.text for chunk in chunks), "token_ids": ids})
    return found


def searched(grounding: Grounding) -> dict[str, Any]:
    settings: RetrievalSettings = SETTINGS.retrieval
    passages = Passages(INDEXES / grounding.index, INDEX_TABLES, settings)
    retriever = Retriever(passages, Embedder(EMBEDDINGS / grounding.embedding, threads=1))
    return {query: [[h.chunk.id, h.score, h.cosine] for h in retriever.search(query, 3)] for query in QUERIES}


def scored(digest: str) -> list[dict[str, Any]]:
    opened = classifier.open_classifier(CLASSIFIERS / digest)
    texts = (ATTACKS[0], HARMLESS[0])
    return [{"text": text, "score": opened.score(text), "attack": opened.is_attack(text)} for text in texts]


def names() -> dict[str, list[str]]:
    """Names that are on disk, wherever they are in the code."""
    return {
        "telemetry": list(TelemetryRow.model_fields),
        "rates": list(get_args(RateName)),
        "costs": list(get_args(CostName)),
        "measures": list(guard.MEASURES),
        "drift": list(COLUMNS),
    }
