"""Stage `grounding`: the examples as a served turn would read them, with what retrieval finds.

build/grounding/    train.parquet      an example for each turn of a customer; what is answered in words is
                                      looked up first, where something is found
                   eval.parquet,      the conversations as they are, with what the model may look up for the
                   test.parquet       last turn
                   grounding.json     in what they are grounded, for the package's manifest

What is found waits at the customer's turn (`Message.context`) until the model calls `look_up`
(`tasks/retrieval/lookup_tool.py`). A small model that is shown passages before every turn chooses the wrong tool
more often (docs/log.md), and most turns need none. Training, evaluation and serving use the same
functions, so a model is asked as it was trained.
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


def add_context(example: Example, search: Search) -> Example:
    """An example with what may be looked up for its customer's last turn."""
    found = [chunk for query in retrieval_queries(example.messages, 1) for chunk in search(query)]
    return example.model_copy(update={"messages": with_context(example.messages, found)}) if found else example


def training_examples(example: Example, search: Search, *, in_words: bool) -> Iterator[Example]:
    """What a conversation teaches: an example for each turn of its customer.

    Args:
        example: the conversation.
        search: finds passages.
        in_words: its turns are answered in words, so they are looked up.
    """
    places = [place for place, message in enumerate(example.messages) if message.role == "user"]
    for number, end in enumerate([*places[1:], len(example.messages)]):
        name = f"{example.id}/{number}" if end < len(example.messages) else example.id
        turn = add_context(example.model_copy(update={"id": name, "messages": example.messages[:end]}), search)
        asked, answer = turn.messages[: places[number] + 1], turn.messages[places[number] + 1 :]
        looks = in_words and asked[-1].context and answer and not answer[0].tool_calls
        first = (call_message(), read_message(asked)) if looks else ()
        yield turn.model_copy(update={"messages": (*asked, *first, *answer)})


def ground_splits(examples: Path, retriever: Retriever, grounding: Grounding, terms: ContractSpec, target: Path) -> int:
    """Ground the examples of every split; `target` is whole or untouched. Returns how many train turns look up."""

    def search(query: str) -> list[Passage]:
        try:
            return [hit.chunk for hit in retriever.search(query, grounding.passages)]
        except TextTooLongError:  # hardly words: a turn that is served is answered without passages too
            return []

    with new_folder(target) as folder:
        train = [
            turn
            for example in load_examples(examples / f"{TRAIN}.parquet")
            for turn in training_examples(
                example, search, in_words=terms.labels.get(example.label, "answer") == "answer"
            )
        ]
        save_examples(folder / f"{TRAIN}.parquet", train)
        for split in HELD_OUT:
            held_out = load_examples(examples / f"{split}.parquet")
            save_examples(folder / f"{split}.parquet", [add_context(example, search) for example in held_out])
        write_json(folder / GROUNDING, grounding.model_dump())
    look_up = call_message()
    return sum(look_up in example.messages for example in train)


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
        found = ground_splits(BUILT_EXAMPLES, retriever, grounding, load_contract(CONTRACT), BUILT_GROUNDING)
    print(f"grounding: {found} of the turns to train on are looked up")


if __name__ == "__main__":
    run_main(main)
