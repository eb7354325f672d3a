"""The tool service runs a call with an effect exactly once: after a crash, concurrently, and for no other call.

Also covers `tasks/domains/nursery/tool_arguments.py` and `tasks/domains/nursery/transaction.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.core.records import Record, ToolCall
from tasks.core.settings import ShopSettings
from tasks.domains.nursery.tool_arguments import TopicArguments
from tasks.domains.nursery.tool_service import ToolService, open_tool_service
from tasks.domains.nursery.tools import Handover, ToolContext, hand_over
from tasks.tools.toolbox import Toolbox
from tests.conftest import ROOT
from tests.support.shop_factory import NOW, OWN, TODAY, ask, coming, make_shop, result_of, table

CHILD = """
import os, signal, sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tasks.core.records import ToolCall
from tasks.domains.nursery.database import Shop
from tasks.domains.nursery.tool_service import ToolService
from tasks.domains.nursery.tools import hand_over
from tasks.tools.toolbox import Toolbox, dump_result

def die(context, arguments):
    hand_over.function(context, arguments)
    os.kill(os.getpid(), signal.SIGKILL)

path, dies, key = sys.argv[1:]
tool = replace(hand_over, function=die) if dies == "before" else hand_over
service = ToolService(Shop(Path(path)), lambda: datetime(2026, 4, 15, 10), 5000, Toolbox([tool]))
sys.stdin.readline()
answered = service.call(ToolCall(name="hand_over", arguments={"topic": "trade"}), "C-1001", key)
if dies == "after":
    os.kill(os.getpid(), signal.SIGKILL)
print(dump_result(answered.result))
"""
TRADE = ToolCall(name="hand_over", arguments={"topic": "trade"})


def child(path: Path, dies: str, key: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(path), dies, key]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("dies", "left"), [("before", 0), ("after", 1)])
def test_a_process_killed_between_effect_and_answer_leaves_all_or_nothing(tmp_path: Path, dies: str, left: int) -> None:
    shop = make_shop(tmp_path)
    killed = child(shop.path, dies, "k")
    killed.communicate("go\n")
    assert killed.returncode == -signal.SIGKILL
    assert (len(table(shop, "tickets")), len(table(shop, "calls"))) == (left, left)
    again = ask(shop, "hand_over", topic="trade", key="k")
    assert result_of(again) == {"ticket": "T-00001"}
    assert again.repeated == bool(left)
    assert (len(table(shop, "tickets")), len(table(shop, "calls"))) == (1, 1)


def test_processes_with_the_same_key_at_once_do_it_once(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    children = [child(shop.path, "never", "k") for _ in range(3)]
    for one in children:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    answers = [one.communicate()[0] for one in children]
    assert [json.loads(answer) for answer in answers] == [{"ticket": "T-00001"}] * 3
    assert len(table(shop, "tickets")) == 1


def test_threads_with_the_same_key_at_once_do_it_once(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(shop, "hand_over", topic="trade", key="k"), range(16)))
    assert {result_of(answer)["ticket"] for answer in answers} == {"T-00001"}
    assert sum(not answer.repeated for answer in answers) == 1
    assert len(table(shop, "tickets")) == 1


def test_another_key_is_another_intention(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    ask(shop, "hand_over", topic="trade", key="a")
    assert result_of(ask(shop, "hand_over", topic="trade", key="b")) == {"ticket": "T-00002"}


@pytest.mark.parametrize(
    ("tool", "customer", "arguments"),
    [
        ("hand_over", OWN, {"topic": "press"}),
        ("hand_over", "C-1002", {"topic": "trade"}),
        ("cancel_order", OWN, {"order_id": "HL-00001"}),
    ],
)
def test_the_same_key_for_something_else_is_an_error(
    tmp_path: Path, tool: str, customer: str, arguments: dict[str, str]
) -> None:
    shop = make_shop(tmp_path, coming(TODAY + timedelta(days=5)))
    ask(shop, "hand_over", topic="trade", key="k")
    orders, tickets = table(shop, "orders"), table(shop, "tickets")
    assert result_of(ask(shop, tool, customer=customer, key="k", **arguments))["error"] == "key_reused"
    assert (table(shop, "orders"), table(shop, "tickets")) == (orders, tickets)


def test_a_repeated_answer_stands_though_the_state_has_moved_on(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(TODAY + timedelta(days=5)))
    first = ask(shop, "cancel_order", order_id="HL-00001", key="k")
    again = ask(shop, "cancel_order", order_id="HL-00001", key="k")
    assert result_of(first) == result_of(again) == {"cancelled": True}
    assert result_of(ask(shop, "cancel_order", order_id="HL-00001", key="other"))["error"] == "not_allowed"


def test_what_was_refused_may_be_tried_again_with_its_key(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(TODAY + timedelta(days=5)))
    refused = ask(shop, "cancel_order", customer=None, order_id="HL-00001", key="k")
    assert result_of(refused)["error"] == "sign_in"
    assert table(shop, "calls") == []
    assert result_of(ask(shop, "cancel_order", order_id="HL-00001", key="k")) == {"cancelled": True}


def test_what_is_only_read_needs_no_key_of_its_own(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(TODAY + timedelta(days=5)))
    for item in ("phlox", "hebe"):
        assert result_of(ask(shop, "check_stock", item=item, key="k"))["item"] == item
    assert table(shop, "calls") == []


def test_a_tool_that_takes_too_long_has_changed_nothing_and_never_will(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    wake, ended = threading.Event(), threading.Event()

    def dawdle(context: ToolContext, arguments: TopicArguments) -> Handover:
        try:
            wake.wait()
            return hand_over.function(context, arguments)  # type: ignore[return-value]
        finally:
            ended.set()

    slow = replace(hand_over, function=dawdle, timeout_s=0.05)
    answered = ToolService(shop, lambda: NOW, 5000, Toolbox([slow])).call(TRADE, OWN, "k")
    assert result_of(answered)["error"] == "timeout"
    wake.set()
    assert ended.wait(10)
    assert result_of(ask(shop, "hand_over", topic="trade", key="k")) == {"ticket": "T-00001"}
    assert len(table(shop, "tickets")) == 1


def test_a_tool_that_breaks_is_undone(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)

    def half(context: ToolContext, arguments: TopicArguments) -> Record:
        hand_over.function(context, arguments)
        raise ZeroDivisionError

    broken = ToolService(shop, lambda: NOW, 5000, Toolbox([replace(hand_over, function=half)]))
    assert result_of(broken.call(TRADE, OWN, "k"))["error"] == "failed"
    assert table(shop, "tickets") == []


def test_a_call_that_does_not_fit_reaches_nothing(tmp_path: Path) -> None:
    shop = make_shop(tmp_path)
    assert result_of(ask(shop, "delete_everything"))["error"] == "unknown_tool"
    assert result_of(ask(shop, "find_order", order_id="HL-1 OR 1=1"))["error"] == "bad_arguments"
    assert result_of(ask(shop, "hand_over", topic="murder"))["error"] == "bad_arguments"


def test_the_desk_opens_with_its_settings(tmp_path: Path) -> None:
    make_shop(tmp_path, coming(TODAY, "cancelled", charged_pence=100))
    settings = ShopSettings(now=NOW, refund_limit_pence=99)
    desk = open_tool_service(settings, tmp_path / "shop.sqlite", tmp_path / "seed")
    refund = ToolCall(name="refund_order", arguments={"order_id": "HL-00001", "reason": "cancelled"})
    assert result_of(desk.call(refund, OWN, "k"))["error"] == "needs_person"
    assert desk.clock() == NOW
