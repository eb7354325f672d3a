"""Background users, who send requests to a running stack during a test, and settings of a rollout within a minute."""

from __future__ import annotations

import threading
from types import TracebackType

import httpx
import yaml

from tests.support.prefect_stack import GraftStack, edit_yaml


class Customers:
    """Users who send requests to production during a `with` block, each request as another user, and are counted.

    Args:
        base_url: base URL of the OpenAI API.
        concurrency: number of concurrent requests.
        pause_s: pause of each thread before its next request, in seconds.
    """

    def __init__(self, base_url: str, concurrency: int = 1, pause_s: float = 0.0) -> None:
        self.requests = 0
        self.failed: list[str] = []
        self.models: set[str] = set()
        self._base_url = base_url
        self._pause_s = pause_s
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(concurrency)]

    def __enter__(self) -> Customers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._pause_s):
            with self._lock:
                self.requests += 1
                number = self.requests
            question = [{"role": "user", "content": f"Where is HL-{number:05}?"}]
            body = {"model": "production", "user": f"customer {number}", "messages": question}
            try:
                answer = httpx.post(f"{self._base_url}/chat/completions", json=body, timeout=60.0)
                answer.raise_for_status()
                self.models.add(answer.json()["model"])
            except httpx.HTTPError as error:
                self.failed.append(repr(error))


def base_url(stack: GraftStack) -> str:
    serve = yaml.safe_load((stack.root / "deployments/serve.yaml").read_text(encoding="utf-8"))
    return f"http://127.0.0.1:{serve['http']['port']}/v1"


def task_states(stack: GraftStack, run_id: str) -> dict[str, str]:
    """State names of a run's tasks by name, in the order they began."""
    body = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
    tasks = stack.prefect.post("/task_runs/filter", json=body).json()
    return {task["name"]: task["state_name"] for task in sorted(tasks, key=lambda t: str(t["start_time"]))}


def quick_rollout(stack: GraftStack) -> None:
    """Set a rollout with all phases of a few seconds each, margins that random weights keep, and an approval."""
    margins = dict.fromkeys(("errors", "slow", "refusals", "policy", "quality"), 0.99)
    analysis = {"alpha": 0.5, "margins": margins, "min_requests": 5, "interval_s": 2, "timeout_s": 300}
    phases = ["prototype", "shadow", "canary 50", "production"]
    edit_yaml(
        stack.root / "params.yaml",
        {"rollout.phases": phases, "rollout.approval": "always", "canary_analysis": analysis},
    )
    edit_yaml(stack.root / "deployments/serve.yaml", {"shadow.fraction": 1.0})
