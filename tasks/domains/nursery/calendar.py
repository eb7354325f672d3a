"""The nursery's calendar: days of dispatch and delivery, and the cut-off for changing them.

Parcels are dispatched on Monday to Thursday and delivered on Monday to Friday; bank holidays count
as any day.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta

DISPATCH_DAYS = range(4)
WORKING_DAYS = range(5)
CUT_OFF = time(18)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = timedelta(days=1)
_YEAR = 366


def add_working_days(start: date, count: int) -> date:
    """The day `count` working days after `start`."""
    day = start
    while count > 0:
        day += _DAY
        count -= day.weekday() in WORKING_DAYS
    return day


def working_days_late(due: date, came: date) -> int:
    """Working days from the day after `due` to `came`; 0 if the parcel was on time."""
    days = (due + _DAY * n for n in range(1, (came - due).days + 1))
    return sum(day.weekday() in WORKING_DAYS for day in days)


def dispatch_for(delivery: date, transit_days: int) -> date:
    """The last dispatch day from which a parcel is delivered by `delivery`."""
    day = delivery - _DAY
    while day.weekday() not in DISPATCH_DAYS or add_working_days(day, transit_days) > delivery:
        day -= _DAY
    return day


def cut_off(dispatch: date) -> datetime:
    """The moment from which the delivery day of a parcel dispatched on `dispatch` is fixed."""
    return datetime.combine(dispatch - _DAY, CUT_OFF)


def delivery_days(now: datetime, transit_days: int) -> Iterator[date]:
    """The days of the coming year on which a parcel can still be delivered, soonest first."""
    for offset in range(1, _YEAR):
        day = now.date() + _DAY * offset
        if day.weekday() in WORKING_DAYS and now < cut_off(dispatch_for(day, transit_days)):
            yield day


def wished_day(wish: str, planned: date, now: datetime, transit_days: int) -> date | None:
    """The delivery day that a customer wishes, or None if no parcel can be delivered on it.

    Args:
        wish: a weekday, for the one nearest to the planned day; or MM-DD, for the next day of that date.
        planned: the delivery day until now.
        now: the shop's time.
        transit_days: working days on the road.
    """
    possible = delivery_days(now, transit_days)
    if wish in WEEKDAYS:
        days = [day for day in possible if day.weekday() == WEEKDAYS.index(wish)]
        return min(days, key=lambda day: abs(day - planned), default=None)
    return next((day for day in possible if f"{day:%m-%d}" == wish), None)
