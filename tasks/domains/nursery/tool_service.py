"""A tool call as the shop answers it: rules, effect and its record in one transaction, exactly once.

The rules look at the same rows that the tool changes, so nothing can come between the two. A call
with an effect leaves its key and result in that transaction: whoever asks again with the key, after
a crash or beside the first, is given the same result and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tasks.core.paths import SHOP, SHOP_SEED
from tasks.core.records import ToolCall
from tasks.core.settings import ShopSettings
from tasks.domains.nursery.answer_rules import AnswerFacts, check_answer
from tasks.domains.nursery.call_rules import check_call
from tasks.domains.nursery.database import Shop, open_shop
from tasks.domains.nursery.tools import TOOLS, ToolContext
from tasks.domains.nursery.transaction import ShopTransaction
from tasks.tools.domain_interface import ToolAnswer, TurnEvidence
from tasks.tools.policy import Decision, first_refusal
from tasks.tools.toolbox import Call, Failure, Once, Toolbox, ToolError


def open_tool_service(settings: ShopSettings, path: Path = SHOP, seed: Path = SHOP_SEED) -> ToolService:
    """The desk of the default shop, whose clock stands still.

    Raises:
        GraftError: as `open_shop`.
    """
    return ToolService(open_shop(path, seed), lambda: settings.now, settings.refund_limit_pence)


@dataclass(frozen=True)
class ToolService:
    """The shop's tools under its rules. `clock` tells the nursery's time, `refund_limit_pence` see `rules`."""

    shop: Shop
    clock: Callable[[], datetime]
    refund_limit_pence: int
    tools: Toolbox[ToolContext] = TOOLS

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """Do what a model asks for on behalf of `customer` (None: somebody unknown), whatever it asks.

        `key` names the intention: the same for a call that is tried again, another for every other.
        """
        read = self.tools.read(call)
        if isinstance(read, Failure):
            return ToolAnswer(read)
        request = _Request(self, customer, key)
        answered = self.tools.run(read, request.perform)
        return ToolAnswer(answered) if isinstance(answered, Failure) else answered

    def check_answer(self, text: str, evidence: TurnEvidence) -> tuple[Decision, ...]:
        """The decisions of the rules for answers; see `tasks/domains/nursery/answer_rules.py`."""
        return check_answer(text, AnswerFacts.of_turn(evidence, self.shop))

    def copy(self, path: Path) -> ToolService:
        """The same tools and rules on a copy of the shop's database at `path`."""
        shutil.copy(self.shop.path, path)
        return replace(self, shop=Shop(path))


class _ToolFailedError(Exception):
    """A tool said no: the transaction is undone, and this is the answer."""

    def __init__(self, answered: ToolAnswer) -> None:
        super().__init__(answered.result)
        self.answered = answered


@dataclass(frozen=True)
class _Request:
    desk: ToolService
    customer: str | None
    key: str

    def perform(self, call: Call[ToolContext], once: Once) -> ToolAnswer:
        try:
            with self.desk.shop.transaction(write=call.tool.effect) as books:
                answered = self._repeat(call, books) if call.tool.effect else None
                if answered is None:
                    answered = self._first(call, books)
                if not once.take():
                    raise TimeoutError(f"{call.tool.name} took longer than {call.tool.timeout_s} s")
        except _ToolFailedError as error:
            return error.answered
        return answered

    def _repeat(self, call: Call[ToolContext], books: ShopTransaction) -> ToolAnswer | None:
        """The answer to a key that was used before."""
        earlier = books.earlier_call(self.key)
        if earlier is None:
            return None
        known, result = earlier
        if known != self._hash(call):
            message = "This request was used for something else already."
            return ToolAnswer(Failure(error="key_reused", message=message), repeated=True)
        return ToolAnswer(call.tool.result.model_validate_json(result), repeated=True)

    def _first(self, call: Call[ToolContext], books: ShopTransaction) -> ToolAnswer:
        now = self.desk.clock()
        decisions = check_call(call, self.customer, books, now, self.desk.refund_limit_pence)
        if barred := first_refusal(decisions):
            return ToolAnswer(Failure(error=barred.code, message=barred.reason), decisions)
        try:
            result = call.tool.function(ToolContext(books, self.customer, now), call.arguments)
        except ToolError as error:
            raise _ToolFailedError(ToolAnswer(error.failure, decisions)) from error
        if call.tool.effect:
            books.remember_call(self.key, call.tool.name, self._hash(call), result.model_dump_json())
        return ToolAnswer(result, decisions)

    def _hash(self, call: Call[ToolContext]) -> str:
        content = [call.tool.name, call.arguments.model_dump(mode="json"), self.customer]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
