"""Errors for people: the one exception type whose message says what is wrong, where, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable


class GraftError(Exception):
    """Bad input or a refused step. Its message is for a person; no traceback is shown with it."""


def run_main(main: Callable[[], None]) -> None:
    """Run a stage's `main`, turning a `GraftError` into its message and exit status 1."""
    try:
        main()
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
