"""The engine protocol of `tasks/engine/protocol.py`, tested on every engine. ENGINES lists a function for each.

Also covers `tasks/engine/decoding.py`, `tasks/engine/openvino.py`, `tasks/engine/resources.py` and
`tasks/engine/vllm.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer

from tasks.engine.model_loading import load_merged, load_model
from tasks.engine.protocol import (
    Constraint,
    ConstraintError,
    Engine,
    Generation,
    GenerationRequest,
    JsonSchema,
    Regex,
    SamplingParams,
    Tag,
    Tags,
    TokenChunk,
    generate,
)
from tasks.engine.resources import EXCLUSIVE

END = 2
PROMPTS = [(1, 40, 50, 60, 70), (1, 40, 50, 61), (1, 40, 50, 60, 71, 80, 90, 99), (1, 40, 50, 9)]
ORDER = {
    "type": "object",
    "properties": {
        "size": {"enum": ["small", "large"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "gift": {"type": "boolean"},
    },
    "required": ["size", "count", "gift"],
    "additionalProperties": False,
}

CODE = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^HL-[0-9]{2}$"}}}
TOOLS = {"order": ORDER, "find": {**CODE, "required": ["code"], "additionalProperties": False}}
TAGS = Tags(
    "<call>",
    tuple(
        Tag(f'<call>{{"name": "{name}", "arguments": ', json.dumps(schema), "}</call>")
        for name, schema in TOOLS.items()
    ),
)

EngineFactory = Callable[[Path, Path | None], Engine]


def transformers(base: Path, adapter: Path | None) -> Engine:
    from tasks.engine.transformers import TransformersEngine

    return TransformersEngine.load(base, adapter, END, "float32", EXCLUSIVE)


def subprocess_engine(base: Path, adapter: Path | None) -> Engine:
    """The transformers engine in a subprocess, which must behave the same."""
    from tasks.engine.subprocess_engine import SubprocessEngine
    from tasks.engine.transformers import TransformersEngine

    return SubprocessEngine(partial(TransformersEngine.load, base, adapter, END, "float32", EXCLUSIVE))


def openvino(base: Path, adapter: Path | None) -> Engine:
    """The weights have 32 bits, because the loss of 8 bits is measured elsewhere."""
    import openvino

    from tasks.engine.openvino import OpenVinoEngine
    from tasks.engine.openvino_export import MODEL, convert, write_tokenizer

    with TemporaryDirectory() as folder:
        graph = convert(load_merged(base, adapter, torch.float32))
        openvino.save_model(graph, Path(folder) / MODEL, compress_to_fp16=False)
        write_tokenizer(base / "tokenizer.json", Path(folder))
        return OpenVinoEngine.load(Path(folder), base / "tokenizer.json", END, "float32", EXCLUSIVE)


def vllm(base: Path, adapter: Path | None) -> Engine:
    pytest.importorskip("vllm", reason="vLLM has an environment of its own")
    from tasks.engine.vllm import VllmEngine

    return VllmEngine.load(base, adapter, END, "float32", EXCLUSIVE)


ENGINES: list[EngineFactory] = [transformers, subprocess_engine, openvino, vllm]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda factory: factory.__name__)
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    selected: EngineFactory = request.param
    return selected


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with fewer and wider heads, because vLLM's attention on a CPU needs a head size of at least 32."""
    folder = tmp_path_factory.mktemp("wide") / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def engine(factory: EngineFactory, base: Path) -> Engine:
    return factory(base, None)


@pytest.fixture(scope="module")
def adapted(factory: EngineFactory, base: Path, tiny_adapter: Path) -> Engine:
    return factory(base, tiny_adapter)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(base / "tokenizer.json"))


Reference = Callable[[Sequence[int]], torch.Tensor]


@pytest.fixture(scope="module")
def reference(base: Path) -> Reference:
    """The model's own log-probabilities [positions, vocabulary] after each token of a sequence."""
    model = load_model(base, torch.float32)

    def logprobs(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)
        return result

    return logprobs


def requests(**options: Any) -> list[GenerationRequest]:
    return [GenerationRequest(prompt, SamplingParams(**{"max_new_tokens": 12, **options})) for prompt in PROMPTS]


def draws(count: int, **options: Any) -> list[GenerationRequest]:
    """The first prompt, sampled `count` times with a seed for each."""
    sampled = ({"max_new_tokens": 1, "temperature": 1.0, "seed": seed, **options} for seed in range(count))
    return [GenerationRequest(PROMPTS[0], SamplingParams(**one)) for one in sampled]


def together(engine: Engine, batch: list[GenerationRequest]) -> list[Generation]:
    return [generation for _, generation in sorted(generate(engine, batch, len(batch)), key=itemgetter(0))]


def alone(engine: Engine, batch: list[GenerationRequest]) -> list[Generation]:
    return [together(engine, [request])[0] for request in batch]


def until_done(engine: Engine, keys: set[int]) -> list[TokenChunk]:
    """All further chunks of `keys`, which are open."""
    chunks: list[TokenChunk] = []
    while keys:
        new = engine.step()
        chunks += new
        keys = keys - {chunk.key for chunk in new if chunk.finish_reason}
    return chunks


def tokens(chunks: list[TokenChunk], key: int) -> tuple[int, ...]:
    return tuple(token for chunk in chunks if chunk.key == key for token in chunk.token_ids)


def text(chunks: list[TokenChunk], key: int) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.key == key)


def test_greedy_is_the_likeliest_token_of_the_model(engine: Engine, reference: Reference) -> None:
    for request, found in zip(requests(), together(engine, requests()), strict=True):
        likeliest = reference([*request.prompt_ids, *found.token_ids]).argmax(-1)
        assert list(found.token_ids) == likeliest[len(request.prompt_ids) - 1 : -1].tolist()


def test_together_equals_alone(engine: Engine) -> None:
    found, expected = together(engine, requests()), alone(engine, requests())
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]
    assert [g.text for g in found] == [g.text for g in expected]


def test_requests_that_join_or_end_change_no_other_answer(engine: Engine) -> None:
    """Requests join and end in different steps, with prompts of different lengths."""
    sizes = (3, 9, 5, 12, 7, 1, 12, 4)
    batch = [GenerationRequest(prompt, SamplingParams(size)) for prompt, size in zip(PROMPTS * 2, sizes, strict=True)]
    expected = [generation.token_ids for generation in alone(engine, batch)]
    chunks: list[TokenChunk] = []
    for key, request in enumerate(batch):
        engine.submit(key, request)
        chunks += engine.step()
        if key == 4:
            engine.cancel(3)
    finished = {chunk.key for chunk in chunks if chunk.finish_reason}
    chunks += until_done(engine, set(range(len(batch))) - finished - {3})
    answers = {key: tokens(chunks, key) for key in range(len(batch))}
    cancelled = answers.pop(3)
    assert len(cancelled) < len(expected[3])
    assert cancelled == expected[3][: len(cancelled)]
    assert answers == {key: ids for key, ids in enumerate(expected) if key != 3}


def test_a_cancelled_request_gains_nothing_from_the_next_step_on(engine: Engine) -> None:
    batch = requests(max_new_tokens=40)
    engine.submit(0, batch[0])
    engine.submit(1, batch[1])
    chunks: list[TokenChunk] = []
    while {chunk.key for chunk in chunks} != {0, 1}:  # a subprocess may start one before it receives the other
        chunks += engine.step()
    engine.cancel(0)
    after = until_done(engine, {1})
    assert tokens(after, 0) == ()
    assert tokens(chunks + after, 1) == alone(engine, batch[1:2])[0].token_ids
    assert engine.step() == []


def test_a_key_is_refused_while_it_is_open(engine: Engine) -> None:
    engine.submit(1, requests()[0])
    with pytest.raises(ValueError, match="request 1 is open"):
        engine.submit(1, requests()[1])
    engine.step()
    with pytest.raises(ValueError, match="request 1 is open"):
        engine.submit(1, requests()[1])
    engine.cancel(1)
    engine.cancel(1)  # one that is not open is no error
    assert engine.step() == []
    engine.submit(1, requests()[1])
    assert tokens(until_done(engine, {1}), 1) == alone(engine, requests()[1:2])[0].token_ids


def test_streamed_chunks_add_up_and_half_characters_wait(engine: Engine, tokenizer: Tokenizer) -> None:
    for key, request in enumerate(requests(temperature=2.0, seed=3)):
        engine.submit(key, request)
    chunks = until_done(engine, set(range(len(PROMPTS))))
    for key in range(len(PROMPTS)):
        own = [chunk for chunk in chunks if chunk.key == key]
        assert text(own, key) == tokenizer.decode(list(tokens(own, key)), skip_special_tokens=True)
        assert [chunk.finish_reason for chunk in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason is not None


def test_length_and_counts(engine: Engine) -> None:
    for size, request in enumerate(requests(), 1):
        found = together(engine, [GenerationRequest(request.prompt_ids, SamplingParams(size))])[0]
        assert (found.completion_tokens, found.prompt_tokens) == (size, len(request.prompt_ids))
        assert found.finish_reason == "length"


def test_the_end_of_turn_ends_it(engine: Engine, tokenizer: Tokenizer) -> None:
    """Sampling at a high temperature chooses the end of turn sometimes."""
    found = together(engine, draws(30, max_new_tokens=40, temperature=2.0))
    ended = [generation for generation in found if generation.finish_reason == "stop"]
    assert ended
    for generation in ended:
        assert generation.token_ids.index(END) == len(generation.token_ids) - 1
        assert generation.text == tokenizer.decode(list(generation.token_ids[:-1]), skip_special_tokens=True)
    for generation in found:
        if generation.finish_reason == "length":
            assert END not in generation.token_ids


def test_a_stop_string_is_not_part_of_the_text(engine: Engine) -> None:
    whole = together(engine, requests()[:1])[0].text
    stop = whole[3:5]
    engine.submit(0, GenerationRequest(PROMPTS[0], SamplingParams(12, stop=("not there", stop))))
    chunks = until_done(engine, {0})
    assert (text(chunks, 0), chunks[-1].finish_reason) == (whole[: whole.index(stop)], "stop")
    assert engine.step() == []


def test_a_seed_repeats_a_sample_in_any_batch(engine: Engine) -> None:
    sampled = requests(temperature=1.0, top_p=0.9, seed=11)
    found = [g.token_ids for g in together(engine, sampled)]
    assert found == [g.token_ids for g in alone(engine, sampled)]
    assert found != [g.token_ids for g in together(engine, requests(temperature=1.0, top_p=0.9, seed=12))]


def test_the_colder_the_likelier(engine: Engine, reference: Reference) -> None:
    """The mean log-probability of 100 sampled tokens."""
    logprobs = reference(PROMPTS[0])[-1]
    cold, warm, hot = (
        sum(logprobs[g.token_ids[0]].item() for g in together(engine, draws(100, temperature=t))) / 100
        for t in (0.02, 0.2, 2.0)
    )
    assert logprobs.max().item() + 1e-6 >= cold > warm > hot


def test_top_p_keeps_to_the_nucleus(engine: Engine, reference: Reference) -> None:
    order = reference(PROMPTS[0])[-1].exp().sort(descending=True)
    top_p = order.values[:5].sum().item() - order.values[4].item() / 2
    found = {g.token_ids[0] for g in together(engine, draws(60, top_p=top_p))}
    assert found == set(order.indices[:5].tolist())


def test_logprobs_are_those_of_the_model(engine: Engine, reference: Reference) -> None:
    sampling = SamplingParams(5, temperature=1.5, top_p=0.8, seed=2, logprobs=True)
    engine.submit(0, GenerationRequest(PROMPTS[0], sampling))
    engine.submit(1, GenerationRequest(PROMPTS[1], SamplingParams(5)))
    chunks = until_done(engine, {0, 1})
    found = [value for chunk in chunks if chunk.key == 0 for value in chunk.logprobs]
    ids = tokens(chunks, 0)
    expected = reference([*PROMPTS[0], *ids])[len(PROMPTS[0]) - 1 : -1]
    assert found == pytest.approx([row[token].item() for row, token in zip(expected, ids, strict=True)], abs=1e-3)
    assert all(chunk.logprobs == () for chunk in chunks if chunk.key == 1)


def test_a_schema_holds(engine: Engine) -> None:
    constraint = JsonSchema(json.dumps(ORDER))
    found = together(engine, draws(5, max_new_tokens=400, constraint=constraint))
    for generation in found:
        assert generation.finish_reason == "stop"
        jsonschema.validate(json.loads(generation.text), ORDER)
    assert len({json.dumps(json.loads(generation.text)) for generation in found}) > 1


def test_a_regular_expression_holds_and_the_end_comes_only_at_a_match(engine: Engine) -> None:
    pattern = "(order|parcel) [A-Z]{2}-[0-9]{2,6}"
    found = together(engine, draws(12, max_new_tokens=60, constraint=Regex(pattern)))
    for generation in found:
        assert (generation.finish_reason, generation.token_ids[-1]) == ("stop", END)
        assert re.fullmatch(pattern, generation.text)
    assert len({len(generation.text) for generation in found}) > 1


def test_greedy_under_a_constraint_takes_the_likeliest_that_fits(engine: Engine, reference: Reference) -> None:
    found = together(engine, [GenerationRequest(PROMPTS[0], SamplingParams(1, constraint=Regex("[b-y]")))])[0]
    likelihood = reference(PROMPTS[0])[-1]
    letters = range(3 + ord("b") - ord("!"), 3 + ord("y") - ord("!") + 1)
    assert found.token_ids[0] == max(letters, key=lambda token: likelihood[token].item())


def test_a_text_cut_short_is_the_beginning_of_a_match(engine: Engine) -> None:
    found = together(engine, [GenerationRequest(PROMPTS[0], SamplingParams(3, constraint=Regex("abcdef")))])[0]
    assert (found.text, found.finish_reason) == ("abc", "length")


def test_a_constraint_changes_no_other_answer(engine: Engine) -> None:
    batch = requests()
    batch[1] = GenerationRequest(PROMPTS[1], SamplingParams(12, constraint=Regex("a{4}")))
    found = together(engine, batch)
    assert found[1].text == "aaaa"
    expected = alone(engine, requests())
    assert [g.token_ids for g in found[2:]] == [g.token_ids for g in expected[2:]]
    assert found[0].token_ids == expected[0].token_ids


def test_a_text_of_tags_alone_is_one_of_them(engine: Engine) -> None:
    found = together(engine, draws(12, max_new_tokens=400, constraint=replace(TAGS, required=True)))
    names = set()
    for generation in found:
        assert generation.finish_reason == "stop"
        call = json.loads(generation.text.removeprefix("<call>").removesuffix("</call>"))
        jsonschema.validate(call["arguments"], TOOLS[call["name"]])
        names.add(call["name"])
    assert names == set(TOOLS)


def test_free_text_with_tags_is_the_same_text_while_no_tag_opens(engine: Engine) -> None:
    """The texts are greedy; bytes that are not UTF-8 are no text, so a constraint does not allow them."""
    batch = [GenerationRequest((1, first, 50), SamplingParams(20)) for first in range(40, 80)]
    free = together(engine, batch)
    constrained = together(
        engine, [replace(request, sampling=SamplingParams(20, constraint=TAGS)) for request in batch]
    )
    texts = [index for index, generation in enumerate(free) if "\ufffd" not in generation.text]
    assert len(texts) > 5
    assert [constrained[index].token_ids for index in texts] == [free[index].token_ids for index in texts]


def test_what_opens_in_free_text_is_held_until_it_ends(engine: Engine) -> None:
    """The trigger is one letter, which sampling at a high temperature chooses sometimes."""
    sizes = Tags("a", (Tag('a{"size": ', '{"enum": ["small", "large"]}', "}."),))
    complete = ('a{"size": "small"}.', 'a{"size": "large"}.')
    opened = 0
    for generation in together(engine, draws(30, max_new_tokens=60, constraint=sizes)):
        text = generation.text
        for tag in complete:
            text = text.replace(tag, "")
        _, begun, cut = text.partition("a")
        assert not begun or any(tag.startswith(begun + cut) for tag in complete)
        opened += text != generation.text
    assert opened > 3


@pytest.mark.parametrize(
    "constraint",
    [
        Regex("(a"),
        Regex(r"(?=a)b"),
        JsonSchema('{"type":'),
        JsonSchema('{"type": "nonsense"}'),
        JsonSchema('{"type": "array", "uniqueItems": true}'),
        JsonSchema('{"type": "integer"}, {}'),
        Tags("<call>", (TAGS.tags[0], Tag("<call>x", '{"type": "array", "uniqueItems": true}', "</call>"))),
    ],
    ids=lambda constraint: getattr(constraint, "text", None) or getattr(constraint, "pattern", "tags"),
)
def test_a_constraint_that_cannot_be_held_is_refused(engine: Engine, constraint: Constraint) -> None:
    with pytest.raises(ConstraintError, match="cannot be held: "):
        engine.submit(0, GenerationRequest(PROMPTS[0], SamplingParams(12, constraint=constraint)))
    assert engine.step() == []
    engine.submit(0, requests()[0])
    assert tokens(until_done(engine, {0}), 0) == alone(engine, requests()[:1])[0].token_ids


def test_an_adapter_changes_the_answers(engine: Engine, adapted: Engine) -> None:
    base = [g.token_ids for g in together(engine, requests())]
    tuned = [g.token_ids for g in together(adapted, requests())]
    assert all(answer != other for answer, other in zip(tuned, base, strict=True))
    assert base == [g.token_ids for g in together(engine, requests())]


def test_the_cached_tokens_of_a_prompt_are_reported(factory: EngineFactory, base: Path) -> None:
    """How much is cached is up to each engine; the last token is always computed."""
    engine = factory(base, None)
    prompt = tuple(3 + (7 * index + index // 9) % 200 for index in range(100))

    def cached(key: int) -> list[int]:
        engine.submit(key, GenerationRequest((*prompt, 200 + key), SamplingParams(max_new_tokens=3)))
        chunks: list[TokenChunk] = []
        while not chunks or not chunks[-1].finish_reason:
            chunks += engine.step()
        return [chunk.cached_tokens for chunk in chunks]

    assert set(cached(0)) == {0}
    (again,) = set(cached(1))
    assert 64 <= again <= 100
