"""Traffic split: the assignment of users to canary or production by a hash, always the same for a user.

A user has a bucket in [0, 100) for each canary, and the canary answers while its percentage is above
that bucket. So a higher percentage adds users and moves none back, and another canary, whose digest
is part of the hash, begins with other users. The split has no state, so all replicas agree.

A user is the request's `user` under the API key that vouches for it. A request without `user` is
assigned by its conversation's first message, which a client sends again with each later turn: a
conversation stays where it began, and conversations with the same first message share a bucket. Where
exact shares matter, send `user`.
"""

from __future__ import annotations

import hashlib
import json

from deployments.core.messages import TurnRequest

_BUCKETS = 2**64


def user_bucket_key(owner: str, request: TurnRequest) -> str:
    """The key by which a user is split: the API key's owner, and the user or the conversation's first message."""
    if request.customer is not None:
        return json.dumps([owner, "user", request.customer])
    user_messages = (message.content for message in request.messages if message.role == "user")
    return json.dumps([owner, "conversation", next(user_messages, request.text or "")])


def bucket(digest: str, user_key: str) -> float:
    """The user's bucket in [0, 100) for the canary `digest`."""
    hashed = hashlib.sha256(f"{digest}\0{user_key}".encode()).digest()
    return 100 * int.from_bytes(hashed[:8]) / _BUCKETS
