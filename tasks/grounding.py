"""Stage `grounding`: adds the retrieved passages to the examples, as a served turn would read them.

build/grounding/    train.parquet      an example per customer turn; a turn that is answered in words begins with
                                       a call of the lookup tool, where passages were found
                    eval.parquet,      the conversations unchanged, with the passages that the model may look up
                    test.parquet       for the last turn
                    grounding.json     the index and the settings of retrieval, for the package's manifest

The passages found wait at the customer's turn (`Message.context`) until the model calls `look_up`
(`tasks/retrieval/lookup_tool.py`). A small model that is shown passages before every turn chooses the wrong
tool more often (docs/log.md), and most turns need none. Training, evaluation and serving use the same
functions, so that a served prompt has the format of the training data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.core.errors import run_main
from tasks.core.files import new_folder, write_json
from tasks.core.paths import BUILT_EMBEDDING, BUILT_EXAMPLES, BUILT_GROUNDING, BUILT_INDEX, CONTRACT
from tasks.core.records import Example
from tasks.core.settings import load_settings
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.examples import load_examples, save_examples
from tasks.model_package.manifest import GROUNDING, Grounding
from tasks.retrieval.chunks import Passage
from tasks.retrieval.embedder import Embedder, TextTooLongError
from tasks.retrieval.lookup_tool import call_message, read_message, with_context
from tasks.retrieval.queries import retrieval_queries
from tasks.retrieval.search import PassageIndex, Retriever

TRAIN, HELD_OUT = "train", ("eval", "test")

Search = Callable[[str], Sequence[Passage]]
"""Returns the passages for a query, the best first."""


def add_context(example: Example, search: Search) -> Example:
    """An example with the passages that the model may look up for the customer's last turn."""
    passages = [chunk for query in retrieval_queries(example.messages, 1) for chunk in search(query)]
    return example.model_copy(update={"messages": with_context(example.messages, passages)}) if passages else example


def training_examples(example: Example, search: Search, *, in_words: bool) -> Iterator[Example]:
    """The training examples of a conversation, one per customer turn.

    Args:
        example: the conversation.
        search: finds passages.
        in_words: whether its turns are answered in words and therefore begin with a call of the lookup tool.
    """
    starts = [index for index, message in enumerate(example.messages) if message.role == "user"]
    for number, end in enumerate([*starts[1:], len(example.messages)]):
        name = f"{example.id}/{number}" if end < len(example.messages) else example.id
        turn = add_context(example.model_copy(update={"id": name, "messages": example.messages[:end]}), search)
        history, answer = turn.messages[: starts[number] + 1], turn.messages[starts[number] + 1 :]
        looks_up = in_words and history[-1].context and answer and not answer[0].tool_calls
        lookup = (call_message(), read_message(history)) if looks_up else ()
        yield turn.model_copy(update={"messages": (*history, *lookup, *answer)})


def ground_splits(
    examples: Path, retriever: Retriever, grounding: Grounding, contract: ContractSpec, target: Path
) -> int:
    """Ground the examples of every split; `target` is whole or untouched.

    Args:
        examples: folder of the splits' examples.
        retriever: searches the index.
        grounding: settings of the grounding, written to `grounding.json`.
        contract: the contract spec, which says for each label how it is answered.
        target: folder of the grounded examples.

    Returns:
        The number of training turns that call the lookup tool.
    """

    def search(query: str) -> list[Passage]:
        try:
            return [hit.chunk for hit in retriever.search(query, grounding.passages)]
        except TextTooLongError:  # hardly natural language; a served turn is answered without passages too
            return []

    with new_folder(target) as folder:
        train = [
            turn
            for example in load_examples(examples / f"{TRAIN}.parquet")
            for turn in training_examples(
                example, search, in_words=contract.labels.get(example.label, "answer") == "answer"
            )
        ]
        save_examples(folder / f"{TRAIN}.parquet", train)
        for split in HELD_OUT:
            held_out = load_examples(examples / f"{split}.parquet")
            save_examples(folder / f"{split}.parquet", [add_context(example, search) for example in held_out])
        write_json(folder / GROUNDING, grounding.model_dump())
    lookup = call_message()
    return sum(lookup in example.messages for example in train)


def main() -> None:
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="graft-grounding-") as tables:
        passages = PassageIndex(BUILT_INDEX, Path(tables), settings.retrieval)
        embedder = Embedder(BUILT_EMBEDDING, threads=1)
        grounding = Grounding(
            index=passages.digest,
            embedding=embedder.digest,
            retrieval=settings.retrieval,
            passages=settings.grounding.shown_passages,
            turns=settings.grounding.query_turns,
            known=settings.grounding.grounding_passages,
        )
        retriever = Retriever(passages, embedder)
        lookups = ground_splits(BUILT_EXAMPLES, retriever, grounding, load_contract(CONTRACT), BUILT_GROUNDING)
    print(f"grounding: {lookups} training turns call the lookup tool")


if __name__ == "__main__":
    run_main(main)
