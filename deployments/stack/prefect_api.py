"""Prefect API client: the few requests of the stack and the command line, over plain HTTP.

The import of Prefect takes four seconds on a small machine; a command that only sends a request should not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from deployments.stack.prefect_auth import PrefectAuth
from deployments.stack.prefect_login import auth_string
from deployments.stack.stack_settings import load_stack_settings
from tasks.core.errors import GraftError

Json = dict[str, Any]
OPEN_STATES = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
_PAGE = 200
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)


class PrefectApi:
    """A client of a Prefect server. Every method raises `GraftError` where the server fails or refuses.

    Args:
        url: URL of the server.
        auth: user name and password as `USER:PASSWORD`, or None for a server without a login.
        timeout_s: longest time of one attempt, in seconds.
    """

    def __init__(self, url: str, auth: str | None = None, timeout_s: float = 15.0) -> None:
        self.url = url
        self._client = httpx.Client(base_url=f"{url}/api", auth=PrefectAuth(f"{url}/api", auth), timeout=timeout_s)

    @classmethod
    def of_stack(cls, root: Path = Path()) -> PrefectApi:
        """The server of `deployments/stack.yaml` in the repository at `root`."""
        return cls(load_stack_settings(root).prefect.url, auth_string(root))

    def _send(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """Send a request, and retry while the server is too busy to answer.

        It answers 503 while its database is locked, and times out while training uses every core. Retries are
        safe: a run is created under an idempotency key, and all other requests are idempotent.
        """
        try:
            for pause_s in _PAUSES_S:
                with suppress(httpx.TimeoutException):
                    answer = self._client.request(method, path, json=json)
                    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                        return answer
                time.sleep(pause_s)
            return self._client.request(method, path, json=json)
        except httpx.HTTPError as error:
            raise GraftError(f"Prefect's server at {self.url} does not answer ({error}); run `graft up`") from error

    def _request(self, method: str, path: str, json: Any = None) -> Any:
        answer = self._send(method, path, json)
        if answer.is_error:
            raise GraftError(f"Prefect's server: {method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return self._client.get("/health", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def open_to_all(self) -> bool:
        """Whether the server answers without a password, as one that an older version of Graft started."""
        try:
            return httpx.get(f"{self.url}/api/admin/version", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def ensure_pool(self, name: str) -> None:
        """Create a process work pool unless it is there."""
        if self._send("GET", f"/work_pools/{name}").status_code == httpx.codes.NOT_FOUND:
            self._request("POST", "/work_pools/", {"name": name, "type": "process"})

    def deployment(self, flow: str, name: str) -> Json:
        """A deployment by its flow's name and its own."""
        answer: Json = self._request("GET", f"/deployments/name/{flow}/{name}")
        return answer

    def runs(self, states: Iterable[str], deployment_id: str | None = None) -> list[Json]:
        """Flow runs in any of these state types, oldest first."""
        query: Json = {"flow_runs": {"state": {"type": {"any_": list(states)}}}, "sort": "START_TIME_ASC"}
        if deployment_id:
            query["flow_runs"]["deployment_id"] = {"any_": [deployment_id]}
        return self._all("/flow_runs/filter", query)

    def _all(self, path: str, body: Json) -> list[Json]:
        """Every page of a filter's results."""
        found: list[Json] = []
        while True:
            page = self._request("POST", path, {**body, "limit": _PAGE, "offset": len(found)})
            found += page
            if len(page) < _PAGE:
                return found

    def run(self, run_id: str) -> Json:
        """A flow run with its state."""
        answer: Json = self._request("GET", f"/flow_runs/{run_id}")
        return answer

    def create_run(self, deployment_id: str) -> Json:
        """Create a run of a deployment, to start now."""
        state = {"type": "SCHEDULED", "message": "Requested from the terminal"}
        body = {"state": state, "idempotency_key": str(uuid4())}
        created: Json = self._request("POST", f"/deployments/{deployment_id}/create_flow_run", body)
        return created

    def set_state(self, run_id: str, state: str, message: str, *, force: bool = False) -> None:
        """Move a flow run to another state.

        Args:
            run_id: the run.
            state: type of the new state.
            message: reason, as Prefect's UI shows it.
            force: skip Prefect's orchestration rules.
        """
        body = {"state": {"type": state, "message": message}, "force": force}
        self._request("POST", f"/flow_runs/{run_id}/set_state", body)

    def resume(self, run_id: str, run_input: Json) -> None:
        """Resume a paused flow run with the input that it waits for."""
        answer = self._request("POST", f"/flow_runs/{run_id}/resume", {"run_input": run_input})
        if answer["status"] != "ACCEPT":
            reason = (answer.get("details") or {}).get("reason") or answer["status"]
            raise GraftError(f"Prefect's server did not resume the run: {reason}")

    def delete_run(self, run_id: str) -> None:
        """Delete a flow run."""
        self._request("DELETE", f"/flow_runs/{run_id}")

    def logs(self, run_id: str, since: str | None) -> list[Json]:
        """Log lines of a run and its tasks from `since` (ISO time) on, in order."""
        query: Json = {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": 20}}
        if since:
            query["timestamp"] = {"after_": since}
        return self._all("/logs/filter", {"logs": query, "sort": "TIMESTAMP_ASC"})

    def artifacts(self, run_id: str) -> list[Json]:
        """The artifacts of a run and its tasks, oldest first."""
        found = self._all("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
        return sorted(found, key=lambda a: str(a["created"]))

    def emit(self, event: str, resource_id: str, payload: Json) -> None:
        """Emit an event. Triggers match its name and its resource's id, not its payload."""
        body = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": resource_id},
            "payload": payload,
        }
        self._request("POST", "/events", [body])

    def run_url(self, run_id: str) -> str:
        """The page of a flow run in Prefect's UI."""
        return f"{self.url}/runs/flow-run/{run_id}"
