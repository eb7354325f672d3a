"""What the shop's tools are asked with, as a model is told it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.records import Record
from tasks.domains.nursery.entities import Problem, Reason

Topic = Literal["complaint", "trade", "wedding", "press", "accessibility", "other"]


class OfOrder(Record):
    order_id: str = Field(description="Order number, such as HL-20931.", pattern="^HL-[0-9]{5}$")


class NewDay(OfOrder):
    date: str = Field(description="Weekday in lower case, or MM-DD.")


class ToReturn(OfOrder):
    item: str = Field(description="What goes back, as the customer names it.")


class ToClaim(OfOrder):
    item: str = Field(description="The plant or thing concerned.")
    problem: Problem


class ToRefund(OfOrder):
    reason: Reason


class OfItem(Record):
    item: str = Field(description="The item, with its variety if named.")


class OfTopic(Record):
    topic: Topic
