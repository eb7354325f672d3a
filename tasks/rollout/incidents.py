"""Incidents: what went wrong in service, when, with which numbers, and who closed it and why.

.graft/incidents/ID.opened.json    written once
.graft/incidents/ID.closed.json    written once, when somebody closes it

Nothing is rewritten and nothing is removed, so the folder is the history. It acts on nothing: who
opens an incident rolls back by himself.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AwareDatetime, Field, ValidationError

from tasks.core.errors import GraftError
from tasks.core.files import locked, write_text
from tasks.core.paths import INCIDENTS
from tasks.core.records import Record

_OPENED, _CLOSED = ".opened.json", ".closed.json"
NonBlank = Annotated[str, Field(min_length=1)]
R = TypeVar("R", bound=Record)


class IncidentReport(Record):
    """What is wrong: in words, of which package, on which channel in which phase, by which measure and numbers."""

    what: NonBlank
    digest: NonBlank
    channel: NonBlank
    phase: NonBlank
    measure: NonBlank
    numbers: dict[str, float]


class Closing(Record):
    """Who closed an incident, why, and when."""

    by: NonBlank
    why: NonBlank
    at: AwareDatetime


class Incident(Record):
    """A report under an id, since when it is open, and its closing, if there was one."""

    id: str
    report: IncidentReport
    opened_at: AwareDatetime
    closed: Closing | None = None


def incidents(root: Path = INCIDENTS) -> list[Incident]:
    """All incidents, open and closed, oldest first.

    Raises:
        GraftError: a file is not as it was written.
    """
    found = []
    for path in root.glob(f"*{_OPENED}"):
        incident = _read(path, Incident)
        end = _closing_of(root, incident.id)
        found.append(incident.model_copy(update={"closed": _read(end, Closing)}) if end.exists() else incident)
    return sorted(found, key=lambda incident: (incident.opened_at, incident.id))


def open_incident(report: IncidentReport, at: datetime, root: Path = INCIDENTS) -> Incident:
    """Open an incident at `at` (aware); if one of this package and phase is open, it is that one.

    Raises:
        GraftError: a file is not as it was written.
    """
    with locked(root / "lock"):
        for known in incidents(root):
            same = (known.report.digest, known.report.phase) == (report.digest, report.phase)
            if same and known.closed is None:
                return known
        when = at.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        incident = Incident(id=f"{when}-{uuid.uuid4().hex[:8]}", report=report, opened_at=at)
        write_text(root / f"{incident.id}{_OPENED}", incident.model_dump_json(indent=2, exclude={"closed"}) + "\n")
    return incident


def close(id: str, by: str, why: str, at: datetime, root: Path = INCIDENTS) -> Incident:
    """Close an incident at `at` (aware).

    Raises:
        GraftError: no reason is given, there is no such incident, or it was closed before; nothing was changed.
    """
    if not why.strip():
        raise GraftError(f"{id}: say why it is closed; it stays open")
    with locked(root / "lock"):
        incident = next((known for known in incidents(root) if known.id == id), None)
        if incident is None:
            raise GraftError(f"{id}: no such incident in {root}")
        if incident.closed:
            raise GraftError(f"{id}: {incident.closed.by} closed it at {incident.closed.at:%Y-%m-%d %H:%M} UTC")
        closing = Closing(by=by, why=why, at=at.astimezone(UTC))
        write_text(_closing_of(root, id), closing.model_dump_json(indent=2) + "\n")
    return incident.model_copy(update={"closed": closing})


def describe(incident: Incident) -> str:
    """An incident for a person: since when, of what, and who closed it."""
    report, closed = incident.report, incident.closed
    end = f"closed by {closed.by} at {closed.at:%Y-%m-%d %H:%M} UTC: {closed.why}" if closed else "open"
    return f"{incident.id}  {report.phase}  {report.digest}  {end}\n    {report.what}"


def _closing_of(root: Path, id: str) -> Path:
    return root / f"{id}{_CLOSED}"


def _read(path: Path, model: type[R]) -> R:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise GraftError(f"{path}: not as it was written ({problem}); bring it back, or move it away") from error
