"""Loading of a model package: its engine and its prompt, checked against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.core.settings import EngineSettings
from tasks.engine import xgrammar
from tasks.engine.protocol import GREEDY, Engine, Generation, GenerationRequest, SamplingParams, Tag, Tags, generate
from tasks.engine.resources import Resources
from tasks.engine.subprocess_engine import SubprocessEngine
from tasks.model_package.manifest import ADAPTER, EXPORTED, PROMPT, read_manifest
from tasks.prompt.encoding import Prompt
from tasks.prompt.tool_calls import CALL_OPENS, ParsedAnswer, around_arguments


class PromptTooLongError(GraftError):
    """The prompt has more tokens than its package allows."""


@dataclass(frozen=True)
class Model:
    """An engine with the prompt code that belongs to it; evaluation and serving both use it."""

    engine: Engine
    """Holds the weights and decodes requests."""
    prompt: Prompt
    """Renders, encodes and parses conversations for these weights."""
    settings: EngineSettings
    """The engine's settings from the package's manifest."""
    max_prompt_tokens: int
    """The longest prompt that the package allows, in tokens."""

    def request(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        must_call: Sequence[str] = (),
        sampling: SamplingParams = GREEDY,
    ) -> GenerationRequest:
        """A request for the next assistant turn.

        Args:
            messages: the conversation.
            tools: the tools that the model is shown; None: the package's own.
            must_call: names of tools; the turn is then nothing but a call of one of them.
            sampling: how to decode. Without a constraint of its own the turn is constrained to its
                tools: what opens as a call is a call of one of them, with arguments that fit its schema.

        Raises:
            PromptTooLongError: the prompt is longer than the package allows.
        """
        shown = self.prompt.shown(messages, tools)
        if sampling.constraint is None and shown:
            sampling = replace(sampling, constraint=_calls(shown, must_call))
        return self._bounded(self.prompt.encode_prompt(messages, tools), sampling)

    def continuation(self, text: str, sampling: SamplingParams = GREEDY) -> GenerationRequest:
        """A request to continue `text`, without chat template.

        Raises:
            PromptTooLongError: the text is longer than the package allows a prompt to be.
            GraftError: the text has no tokens.
        """
        return self._bounded(self.prompt.encode_text(text), sampling)

    def _bounded(self, ids: Sequence[int], sampling: SamplingParams) -> GenerationRequest:
        """The request, with the package's limit of new tokens where it asks for more or names none."""
        if len(ids) > self.max_prompt_tokens:
            raise PromptTooLongError(f"the prompt has {len(ids)} tokens; at most {self.max_prompt_tokens} are allowed")
        limit = self.settings.max_new_tokens
        max_new_tokens = min(sampling.max_new_tokens or limit, limit)
        return GenerationRequest(tuple(ids), replace(sampling, max_new_tokens=max_new_tokens))

    def answers(
        self, conversations: Sequence[Sequence[Message]], max_num_seqs: int
    ) -> Iterator[tuple[int, Generation, ParsedAnswer]]:
        """The next assistant turn of each conversation, decoded greedily; each with its index, as it finishes.

        `max_num_seqs` is the number of requests in the engine at a time.
        """
        requests = [self.request(messages) for messages in conversations]
        for place, generation in generate(self.engine, requests, max_num_seqs):
            yield place, generation, self.prompt.parse(generation.text)


def _calls(tools: Sequence[dict[str, Any]], must_call: Sequence[str]) -> Tags:
    """Free text with calls of `tools`, or one call of those that `must_call` names."""
    functions = [tool["function"] for tool in tools if not must_call or tool["function"]["name"] in must_call]
    tags = []
    for function in functions:
        begin, end = around_arguments(function["name"])
        tags.append(Tag(begin, json.dumps(function["parameters"]), end))
    return Tags(CALL_OPENS, tuple(tags), required=bool(must_call))


def open_package(package: Path, base: Path, resources: Resources) -> Model:
    """Load a package on the engine that its manifest names, after checking the base's tokenizer and the prompt.

    File hashes, licenses and similar conditions are not checked here but before a package is served:
    `tasks/model_package/admission.py`.

    Raises:
        GraftError: tokenizer or prompt differ from those that the package was made with.
    """
    manifest = read_manifest(package)
    prompt = Prompt.load(package / PROMPT, base)
    prompt.require(manifest.prompt, package)
    engine = _open(manifest.engine, base, package / ADAPTER, package / EXPORTED, prompt.end_of_turn, resources)
    return Model(engine, prompt, manifest.engine, manifest.max_prompt_tokens)


def open_base(package: Path, base: Path, baseline: Path, resources: Resources) -> Model:
    """Load the package's base without the adapter, on the same engine with the same prompt, as the baseline.

    Args:
        package: the package.
        base: its base model.
        baseline: the folder that the stage `base` wrote beside the base model.
        resources: threads, memory, and whether the engine runs in a subprocess.
    """
    manifest, prompt = read_manifest(package), Prompt.load(package / PROMPT, base)
    engine = _open(manifest.engine, base, None, baseline / EXPORTED, prompt.end_of_turn, resources)
    return Model(engine, prompt, manifest.engine, manifest.max_prompt_tokens)


def _open(
    settings: EngineSettings, base: Path, adapter: Path | None, exported: Path, end_of_turn: int, resources: Resources
) -> Engine:
    """The engine that `settings` names. Its libraries take seconds to import, so only the one in use is imported."""
    if settings.name == "openvino":
        opens = partial(_open_openvino, exported, base / "tokenizer.json", end_of_turn, settings.dtype, resources)
        return SubprocessEngine(opens, xgrammar.check) if resources.in_subprocess else opens()
    if settings.name == "vllm":
        from tasks.engine.vllm import VllmEngine

        return VllmEngine.load(base, adapter, end_of_turn, settings.dtype, resources)
    from tasks.engine.transformers import TransformersEngine

    return TransformersEngine.load(base, adapter, end_of_turn, settings.dtype, resources)


def _open_openvino(folder: Path, tokenizer: Path, end_of_turn: int, dtype: str, resources: Resources) -> Engine:
    from tasks.engine.openvino import OpenVinoEngine

    return OpenVinoEngine.load(folder, tokenizer, end_of_turn, dtype, resources)
