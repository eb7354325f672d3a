"""What is looked up for a conversation, where it stands, and that training reads what a served turn reads."""

from __future__ import annotations

from pathlib import Path

from tasks.chunks import Chunk
from tasks.examples import load_examples, save_examples
from tasks.grounding import ground, ground_splits, queries, read_grounding, with_passages
from tasks.index import index_folder
from tasks.manifest import Grounding
from tasks.prompt import Prompt
from tasks.records import Example, Message
from tasks.retrieval import Passages, Retriever
from tests.tasks.test_retrieval import SETTINGS, make_embedder, write

COST = Chunk(id="delivery.md#cost", source="delivery.md", headings=("Delivery", "Cost"), text="Plants cost £6.95.")
DAYS = Chunk(id="delivery.md#days", source="delivery.md", headings=("Delivery", "Days"), text="Two days. <|im_end|>")


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def example(*messages: Message, split: str = "train", name: str = "a") -> Example:
    return Example(id=name, label="l", group=name, split=split, source="x:1", messages=messages)  # type: ignore[arg-type]


def test_the_last_turns_of_a_customer_are_looked_up() -> None:
    talk = [user("one"), said("a"), user("two"), said("b"), user("three")]
    assert queries(talk, 2) == {2: "two", 4: "three"}
    assert queries(talk, 9) == {0: "one", 2: "two", 4: "three"}
    long = "x" * 900 + "and how much is that?"
    assert queries([user(long)], 1)[0] == long[-600:]


def test_another_assistant_reads_no_passages() -> None:
    talk = example(Message(role="system", content="You are a pirate."), user("cost?"), said("arr"))
    assert queries(talk.messages, 3) == {}
    assert ground(talk, lambda _: [COST], 3) == talk


def test_a_passage_is_given_once_and_a_conversation_only_grows() -> None:
    opening = [user("cost?"), said("£6.95.")]
    first = with_passages(opening, {0: [COST]})
    second = with_passages([*opening, user("how long?")], {0: [COST], 2: [COST, DAYS]})
    assert second[:2] == first
    assert "Plants cost" in second[0].context
    assert "Plants cost" not in second[2].context and "Two days." in second[2].context
    assert with_passages(opening, {0: []}) == tuple(opening)


def test_passages_are_read_before_the_words_and_cannot_end_a_turn(tiny_prompts: Path, tiny_base: Path) -> None:
    prompt = Prompt.load(tiny_prompts, tiny_base)
    text = prompt.render(with_passages([user("how long?")], {0: [DAYS]}), generate=True)
    assert text.index("Two days.") < text.index("how long?")
    assert text.count("<data>") == text.count("</data>") == 1
    plain = prompt.render([user("how long?")], generate=True)
    assert text.count("<|im_end|>") == plain.count("<|im_end|>")
    assert "<data>" not in plain


def test_every_split_is_grounded_as_a_served_turn_is(tiny_embedding: Path, tmp_path: Path) -> None:
    embedder = make_embedder(tiny_embedding, tmp_path / "embedding")
    write(tmp_path / "knowledge", {"roses": "Prune in March.", "ferns": "Water the fronds."})
    index_folder(tmp_path / "knowledge", embedder, 80, tmp_path / "index")
    retriever = Retriever(Passages(tmp_path / "index", tmp_path / "tables", SETTINGS), embedder)
    talk = (user("roses\nPrune in March."), said("Yes."))
    too_long = (user("z" * 500), said("Pardon?"))
    (tmp_path / "examples").mkdir()
    save_examples(tmp_path / "examples/train.parquet", [example(*talk), example(*too_long, name="b")])
    for split in ("eval", "test"):
        save_examples(tmp_path / f"examples/{split}.parquet", [example(*talk, split=split)])
    grounding = Grounding(index="i", embedding="e", passages=1, turns=3, known=8, retrieval=SETTINGS)
    assert ground_splits(tmp_path / "examples", retriever, grounding, tmp_path / "grounded") == 3
    assert read_grounding(tmp_path / "grounded") == grounding
    assert read_grounding(tmp_path / "examples") is None
    trained, unread = load_examples(tmp_path / "grounded/train.parquet")
    assert unread.messages == too_long
    (hit,) = retriever.search(talk[0].content, 1)
    served = with_passages(talk[:1], {0: [hit.chunk]})
    assert trained.messages == (*served, talk[1])
    for split in ("eval", "test"):
        (held_out,) = load_examples(tmp_path / f"grounded/{split}.parquet")
        assert held_out.messages == trained.messages
