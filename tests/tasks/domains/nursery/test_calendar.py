"""The nursery's calendar: dispatch on Monday to Thursday, delivery on Monday to Friday, 6 pm the day before."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import islice

import pytest

from tasks.domains.nursery.calendar import (
    add_working_days,
    cut_off,
    delivery_days,
    dispatch_for,
    wished_day,
    working_days_late,
)

WEDNESDAY = date(2026, 4, 15)


def april(day: int) -> date:
    return date(2026, 4, day)


@pytest.mark.parametrize(("count", "day"), [(0, 15), (1, 16), (2, 17), (3, 20), (5, 22)])
def test_working_days_leave_out_weekends(count: int, day: int) -> None:
    assert add_working_days(WEDNESDAY, count) == april(day)


@pytest.mark.parametrize(("came", "late"), [(14, 0), (15, 0), (16, 1), (19, 2), (20, 3), (22, 5), (23, 6)])
def test_lateness_counts_working_days_after_the_day(came: int, late: int) -> None:
    assert working_days_late(WEDNESDAY, april(came)) == late


@pytest.mark.parametrize(
    ("delivery", "transit", "dispatch"),
    [(22, 2, 20), (23, 2, 21), (24, 2, 22), (27, 2, 23), (28, 2, 23), (28, 5, 21), (24, 4, 20)],
)
def test_a_parcel_leaves_on_the_last_dispatch_day_in_time(delivery: int, transit: int, dispatch: int) -> None:
    assert dispatch_for(april(delivery), transit) == april(dispatch)


def test_every_delivery_day_has_a_dispatch_day() -> None:
    for offset in range(366):
        day = WEDNESDAY + timedelta(days=offset)
        for transit in (2, 4, 5):
            dispatch = dispatch_for(day, transit)
            assert dispatch.weekday() < 4
            assert add_working_days(dispatch, transit) <= day


def test_a_day_is_fixed_from_six_on_the_day_before_dispatch() -> None:
    assert cut_off(april(20)) == datetime(2026, 4, 19, 18)


@pytest.mark.parametrize(
    ("now", "first"),
    [(datetime(2026, 4, 15, 17, 59), 20), (datetime(2026, 4, 15, 18), 22), (datetime(2026, 4, 18), 22)],
)
def test_the_next_delivery_day_hangs_on_the_cut_off(now: datetime, first: int) -> None:
    assert next(delivery_days(now, 2)) == april(first)


def test_delivery_days_are_weekdays_within_a_year() -> None:
    now = datetime(2026, 4, 15, 10)
    days = list(delivery_days(now, 2))
    assert {day.weekday() for day in days} == {0, 1, 2, 3, 4}
    assert days == sorted(days)
    assert days[-1] == date(2027, 4, 15)
    assert list(islice(days, 3)) == [april(20), april(21), april(22)]


@pytest.mark.parametrize(
    ("wish", "planned", "expected"),
    [
        ("thursday", april(22), april(23)),
        ("tuesday", april(23), april(21)),
        ("monday", april(24), april(27)),
        ("wednesday", date(2026, 5, 21), date(2026, 5, 20)),
        ("friday", april(20), april(24)),
        ("05-22", april(22), date(2026, 5, 22)),
        ("03-03", april(22), date(2027, 3, 3)),
        ("saturday", april(22), None),
        ("04-25", april(22), None),
        ("04-17", april(22), None),
        ("02-30", april(22), None),
        ("Thursday", april(22), None),
        ("soon", april(22), None),
    ],
)
def test_a_wish_means_the_nearest_such_day_that_can_be_reached(wish: str, planned: date, expected: date | None) -> None:
    assert wished_day(wish, planned, datetime(2026, 4, 15, 10), 2) == expected
