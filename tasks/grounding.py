"""Stage `grounding`: what retrieval finds for a customer's turn, put where the model reads it.

build/grounded/    train.parquet, eval.parquet, test.parquet    the examples as a served turn would read them
                   grounding.json                               in what, for the package's manifest

Training, evaluation and serving put passages into a conversation by the functions below, so a model
is asked as it was trained. Each of the last turns of a customer is looked up by its own words, and
what an earlier turn was given is not given again; a conversation only grows, which is what an
engine's kept prefixes and the training rows need.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tasks.chunks import Chunk
from tasks.embedding import Embedder, TextTooLongError
from tasks.errors import run_main
from tasks.examples import load_examples, save_examples
from tasks.files import new_folder, write_json
from tasks.layout import BUILT_EMBEDDING, BUILT_EXAMPLES, BUILT_GROUNDED, BUILT_INDEX
from tasks.manifest import Grounding
from tasks.records import Example, Message
from tasks.retrieval import Passages, Retriever
from tasks.settings import load_settings
from tasks.spotlight import mark_data

INFO = "grounding.json"
SPLITS = ("train", "eval", "test")
_QUERY_CHARS = 600
"""A longer turn is looked up by its end, where the question mostly is: a retrieval model reads so much."""


def queries(messages: Sequence[Message], turns: int) -> dict[int, str]:
    """The places of a customer's last `turns` turns, and what to look up for each.

    None in a conversation with a system text of its own: that is another assistant, which is shown
    neither the shop's tools nor its documents.
    """
    if messages and messages[0].role == "system":
        return {}
    asked = [place for place, message in enumerate(messages) if message.role == "user"]
    return {place: messages[place].content[-_QUERY_CHARS:] for place in asked[-turns:]}


def with_passages(messages: Sequence[Message], found: Mapping[int, Sequence[Chunk]]) -> tuple[Message, ...]:
    """The conversation with the chunks `found` for the turns at those places, each at its first turn only."""
    given: set[str] = set()
    grounded = list(messages)
    for place, chunks in sorted(found.items()):
        new = [chunk for chunk in chunks if chunk.id not in given]
        given |= {chunk.id for chunk in new}
        context = "\n".join(mark_data(chunk.embedded) for chunk in new)
        grounded[place] = messages[place].model_copy(update={"context": context})
    return tuple(grounded)


def ground(example: Example, search: Callable[[str], Sequence[Chunk]], turns: int) -> Example:
    """An example with the passages of its turns."""
    found = {place: search(query) for place, query in queries(example.messages, turns).items()}
    return example.model_copy(update={"messages": with_passages(example.messages, found)})


def ground_splits(examples: Path, retriever: Retriever, grounding: Grounding, target: Path) -> int:
    """Ground the examples of every split; `target` is whole or untouched. Returns how many turns found something."""

    def search(query: str) -> list[Chunk]:
        try:
            return [hit.chunk for hit in retriever.search(query, grounding.passages)]
        except TextTooLongError:  # hardly words: a turn that is served is answered without passages too
            return []

    found = 0
    with new_folder(target) as folder:
        for split in SPLITS:
            grounded = [ground(e, search, grounding.turns) for e in load_examples(examples / f"{split}.parquet")]
            save_examples(folder / f"{split}.parquet", grounded)
            found += sum(bool(message.context) for example in grounded for message in example.messages)
        write_json(folder / INFO, grounding.model_dump())
    return found


def read_grounding(folder: Path) -> Grounding | None:
    """What the examples in `folder` are grounded in; None if they are not."""
    path = folder / INFO
    return Grounding.model_validate_json(path.read_bytes()) if path.is_file() else None


def main() -> None:
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="graft-grounding-") as tables:
        passages = Passages(BUILT_INDEX, Path(tables), settings.retrieval)
        embedder = Embedder(BUILT_EMBEDDING, threads=1)
        grounding = Grounding(
            index=passages.digest,
            embedding=embedder.digest,
            retrieval=settings.retrieval,
            **settings.grounding.model_dump(),
        )
        found = ground_splits(BUILT_EXAMPLES, Retriever(passages, embedder), grounding, BUILT_GROUNDED)
    print(f"grounding: passages for {found} of the customers' turns")


if __name__ == "__main__":
    run_main(main)
