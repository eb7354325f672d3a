"""Incidents: the records of breaches in a rollout, with time and numbers, and with who closed them and why.

.graft/incidents/ID.opened.json    written once
.graft/incidents/ID.closed.json    written once, when a person closes it

No file is rewritten or removed, so the folder is the history. Opening an incident changes nothing else: the
caller is responsible for the rollback.
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
    """A breach: the package, the rollout phase, and the metric with its numbers."""

    what: NonBlank
    """Description in sentences."""
    digest: NonBlank
    """Digest of the package that is at fault."""
    channel: NonBlank
    """Channel that the rollout was for."""
    phase: NonBlank
    """Label of the rollout phase."""
    measure: NonBlank
    """Name of the metric."""
    numbers: dict[str, float]
    """The numbers of the metric, by name."""


class Closing(Record):
    """The closing of an incident."""

    by: NonBlank
    """Person who closed it."""
    why: NonBlank
    """Reason."""
    at: AwareDatetime
    """When it was closed."""


class Incident(Record):
    """An incident: a report with an id, and its closing, if it is closed."""

    id: str
    """Time of opening (UTC) and eight hex digits."""
    report: IncidentReport
    """The breach."""
    opened_at: AwareDatetime
    """When it was opened."""
    closed: Closing | None = None
    """The closing; None while the incident is open."""


def incidents(root: Path = INCIDENTS) -> list[Incident]:
    """All incidents, open and closed, oldest first.

    Raises:
        GraftError: a file is not as it was written.
    """
    result = []
    for path in root.glob(f"*{_OPENED}"):
        incident = _read(path, Incident)
        closing = _closing_of(root, incident.id)
        result.append(incident.model_copy(update={"closed": _read(closing, Closing)}) if closing.exists() else incident)
    return sorted(result, key=lambda incident: (incident.opened_at, incident.id))


def open_incident(report: IncidentReport, at: datetime, root: Path = INCIDENTS) -> Incident:
    """Open an incident at `at` (aware), or return the open one of the same package and phase.

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
    """Close an incident.

    Args:
        id: the incident.
        by: person who closes it.
        why: reason; not blank.
        at: when it is closed; aware.
        root: folder of the incidents.

    Raises:
        GraftError: the reason is blank, there is no such incident, or it was closed before; nothing was changed.
    """
    if not why.strip():
        raise GraftError(f"{id}: closing an incident needs a reason; it stays open")
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
    """An incident as text for a person: id, phase, package, and whether it is open or who closed it and why."""
    report, closed = incident.report, incident.closed
    state = f"closed by {closed.by} at {closed.at:%Y-%m-%d %H:%M} UTC: {closed.why}" if closed else "open"
    return f"{incident.id}  {report.phase}  {report.digest}  {state}\n    {report.what}"


def _closing_of(root: Path, id: str) -> Path:
    return root / f"{id}{_CLOSED}"


def _read(path: Path, model: type[R]) -> R:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise GraftError(
            f"{path}: the incident file is damaged ({problem}); restore it from a backup, or move it away"
        ) from error
