"""Step of a flow: a Prefect task that fails with a message for a person, not with a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.core.errors import GraftError

P = ParamSpec("P")


def step(name: str, function: Callable[P, Any]) -> Callable[P, Any]:
    """`function` as a task of the running flow.

    It may return a state of its own (see `cached`) with the result as its data. A call of the step
    raises `GraftError` with the function's own message; other errors pass unchanged.
    """

    @task(name=name, task_run_name=name, cache_policy=NO_CACHE)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return function(*args, **kwargs)
        except GraftError as error:
            return Failed(message=str(error), data=error)

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        return run(*args, return_state=True, **kwargs).result()

    return call


def cached(message: str, data: Any = None) -> State:
    """The state of a step that was skipped, with the reason."""
    return Completed(name="Cached", message=message, data=data)
