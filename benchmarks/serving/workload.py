"""Workload of the serving benchmark: its prompts, and the model in the peers' formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.serving.closed_loop_clients import Chat
from benchmarks.serving.gguf_export import write_gguf
from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.data.examples import load_examples
from tasks.engine.model_loading import load_merged
from tasks.model_package.manifest import ADAPTER, PROMPT
from tasks.prompt.encoding import Prompt

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the peers, which get Graft's system prompt and its tools as one message."""


@dataclass(frozen=True)
class Workload:
    """The prompts of the benchmark."""

    texts: tuple[str, ...]
    """Users' first messages, without duplicates."""
    opening: Chat
    """The package's prompt as the system message that peers need."""
    prompt: Prompt
    """The package's prompt."""

    @classmethod
    def load(cls, package: Path, base: Path, examples: Path) -> Workload:
        """Read the eval and train rows of `examples`.

        Raises:
            GraftError: there are none, or the package's template is not ChatML.
        """
        prompt = Prompt.load(package / PROMPT, base)
        rows = [row for split in ("eval", "train") for row in load_examples(examples / f"{split}.parquet")]
        questions = [next((m.content.strip() for m in row.messages if m.role == "user"), "") for row in rows]
        opening = [{"role": "system", "content": _system_text(prompt)}]
        return cls(tuple(dict.fromkeys(filter(None, questions))), opening, prompt)

    def tokens(self, text: str) -> list[int]:
        """The prompt of a user's message as token ids, as the service encodes it."""
        return self.prompt.encode_prompt([Message(role="user", content=text)])

    def slices(self, sizes: Sequence[int]) -> Iterator[tuple[str, ...]]:
        """Disjoint slices of texts, one of each size.

        Raises:
            GraftError: there are not enough texts.
        """
        if sum(sizes) > len(self.texts):
            raise GraftError(
                f"{sum(sizes)} prompts are needed, and the examples have {len(self.texts)}; lower --repeats"
            )
        done = 0
        for size in sizes:
            yield self.texts[done : done + size]
            done += size


def write_folder(package: Path, base: Path, workload: Workload, target: Path) -> None:
    """Write the merged model in float32, as `transformers serve` reads it.

    Args:
        package: folder of the package.
        base: folder of the base model.
        workload: the prompts, to check the chat template.
        target: folder to write.

    Raises:
        GraftError: the peers' chat template renders other prompts than the package's.
    """
    load_merged(base, package / ADAPTER, torch.float32).save_pretrained(target)
    end = workload.prompt.tokenizer.id_to_token(workload.prompt.end_of_turn)
    file = str(base / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, eos_token=end, chat_template=CHATML).save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True)
    for text in workload.texts[:8]:
        messages = [*workload.opening, {"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if tokenizer.encode(rendered, add_special_tokens=False) != workload.tokens(text):
            raise GraftError(f"peers would get another prompt than the package's: {rendered!r}")


def write_q8(package: Path, base: Path, target: Path) -> None:
    """Write the merged model as a Q8_0 GGUF file, as llama.cpp reads it."""
    write_gguf(base, package / ADAPTER, CHATML, target)


def _system_text(prompt: Prompt) -> str:
    rendered = prompt.render([Message(role="user", content="?")], generate=True)
    before, after = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    if not (rendered.startswith(before) and rendered.endswith(after)):
        raise GraftError(f"chat.jinja: peers need ChatML with a system message, and this prompt is not: {rendered!r}")
    return rendered.removeprefix(before).removesuffix(after)
