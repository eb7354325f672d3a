"""API errors in OpenAI's format: each has a status, a code and a sentence; never a bare 500."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.core.messages import Refusal


class ApiError(Exception):
    """The error response of a request.

    Args:
        status: HTTP status.
        code: the error code for programs, OpenAI's where OpenAI has one.
        message: the problem and its remedy, for a person.
        param: the request's field that is at fault.
        retry_after_s: seconds after which a retry is useful.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @classmethod
    def refused(cls, refusal: Refusal) -> ApiError:
        """The error for a served package's refusal."""
        after = refusal.retry_after_s
        return cls(refusal.status, refusal.code, refusal.message, param=refusal.param, retry_after_s=after)

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        after = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return {**self._headers, **after}
