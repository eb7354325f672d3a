"""Who is answered by the canary: a share of production's users, and always the same ones.

A user has a place between 0 and 100 for each canary, and is answered by it while its percentage is
above that place. So a higher percentage adds users and moves none back, and another canary, whose
digest is part of the hash, begins with others. Nothing is remembered, so all replicas agree.

A user is the request's `user` under the key that vouches for it. A request that names none counts
by its conversation's first words, which a client sends with each later turn: a conversation stays
where it began, and all that begin alike are together. Where shares matter, send `user`.
"""

from __future__ import annotations

import hashlib
import json

from deployments.core.messages import TurnRequest

_PLACES = 2**64


def user_bucket_key(owner: str, ask: TurnRequest) -> str:
    """Who asks, as far as weights need to know: the key's owner, and the user or the conversation's first words."""
    if ask.customer is not None:
        return json.dumps([owner, "user", ask.customer])
    said = (message.content for message in ask.messages if message.role == "user")
    return json.dumps([owner, "conversation", next(said, ask.text or "")])


def bucket(digest: str, visitor: str) -> float:
    """Where in [0, 100) this visitor stands for the canary `digest`."""
    found = hashlib.sha256(f"{digest}\0{visitor}".encode()).digest()
    return 100 * int.from_bytes(found[:8]) / _PLACES
