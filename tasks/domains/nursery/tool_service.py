"""The shop's tool service: each tool call with its rules and its effect in one transaction, exactly once.

The rules look at the same rows that the tool changes, so no other writer can come between the two.
A call with an effect stores its idempotency key and its result in that transaction: a repeated call
with the key, after a crash or concurrent with the first, returns the same result and changes nothing.
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
    """The shop's tool service, with a clock that stands still.

    Raises:
        GraftError: as `open_shop`.
    """
    return ToolService(open_shop(path, seed), lambda: settings.now, settings.refund_limit_pence)


@dataclass(frozen=True)
class ToolService:
    """The shop's tools under its rules.

    Attributes:
        shop: the database.
        clock: the shop's time.
        refund_limit_pence: the most that the desk may refund for one order.
        tools: the tools.
    """

    shop: Shop
    clock: Callable[[], datetime]
    refund_limit_pence: int
    tools: Toolbox[ToolContext] = TOOLS

    def call(self, call: ToolCall, customer: str | None, key: str) -> ToolAnswer:
        """Run a model's tool call on behalf of `customer` (None: the client is not signed in).

        `key` is the idempotency key: the same for a call that is retried, another for every other.
        """
        checked_call = self.tools.read(call)
        if isinstance(checked_call, Failure):
            return ToolAnswer(checked_call)
        answer = self.tools.run(checked_call, _Request(self, customer, key).perform)
        return ToolAnswer(answer) if isinstance(answer, Failure) else answer

    def check_answer(self, text: str, evidence: TurnEvidence) -> tuple[Decision, ...]:
        """The decisions of the rules for answers; see `tasks/domains/nursery/answer_rules.py`."""
        return check_answer(text, AnswerFacts.of_turn(evidence, self.shop))

    def copy(self, path: Path) -> ToolService:
        """The same tools and rules on a copy of the shop's database at `path`."""
        shutil.copy(self.shop.path, path)
        return replace(self, shop=Shop(path))


class _ToolFailedError(Exception):
    """A tool failed: the transaction is rolled back, and `answer` is the answer."""

    def __init__(self, answer: ToolAnswer) -> None:
        super().__init__(answer.result)
        self.answer = answer


@dataclass(frozen=True)
class _Request:
    desk: ToolService
    customer: str | None
    key: str

    def perform(self, call: Call[ToolContext], once: Once) -> ToolAnswer:
        try:
            with self.desk.shop.transaction(write=call.tool.effect) as transaction:
                answer = self._repeat(call, transaction) if call.tool.effect else None
                if answer is None:
                    answer = self._first(call, transaction)
                if not once.take():
                    raise TimeoutError(f"{call.tool.name} took longer than {call.tool.timeout_s} s")
        except _ToolFailedError as error:
            return error.answer
        return answer

    def _repeat(self, call: Call[ToolContext], transaction: ShopTransaction) -> ToolAnswer | None:
        """The answer for a key that was used before."""
        earlier = transaction.earlier_call(self.key)
        if earlier is None:
            return None
        known, result = earlier
        if known != self._hash(call):
            message = "This request was used for something else already."
            return ToolAnswer(Failure(error="key_reused", message=message), repeated=True)
        return ToolAnswer(call.tool.result.model_validate_json(result), repeated=True)

    def _first(self, call: Call[ToolContext], transaction: ShopTransaction) -> ToolAnswer:
        now = self.desk.clock()
        decisions = check_call(call, self.customer, transaction, now, self.desk.refund_limit_pence)
        if barred := first_refusal(decisions):
            return ToolAnswer(Failure(error=barred.code, message=barred.reason), decisions)
        try:
            result = call.tool.function(ToolContext(transaction, self.customer, now), call.arguments)
        except ToolError as error:
            raise _ToolFailedError(ToolAnswer(error.failure, decisions)) from error
        if call.tool.effect:
            transaction.remember_call(self.key, call.tool.name, self._hash(call), result.model_dump_json())
        return ToolAnswer(result, decisions)

    def _hash(self, call: Call[ToolContext]) -> str:
        content = [call.tool.name, call.arguments.model_dump(mode="json"), self.customer]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
