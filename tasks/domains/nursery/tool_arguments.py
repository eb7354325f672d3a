"""The arguments of the shop's tools, as their schemas show them to a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.records import Record
from tasks.domains.nursery.entities import Problem, Reason

Topic = Literal["complaint", "trade", "wedding", "press", "accessibility", "other"]


class OrderArguments(Record):
    order_id: str = Field(description="Order number, such as HL-20931.", pattern="^HL-[0-9]{5}$")


class DeliveryArguments(OrderArguments):
    date: str = Field(description="Weekday in lower case, or MM-DD.")


class ReturnArguments(OrderArguments):
    item: str = Field(description="What goes back, as the customer names it.")


class ClaimArguments(OrderArguments):
    item: str = Field(description="The plant or thing concerned.")
    problem: Problem


class RefundArguments(OrderArguments):
    reason: Reason


class ItemArguments(Record):
    item: str = Field(description="The item, with its variety if named.")


class TopicArguments(Record):
    topic: Topic
