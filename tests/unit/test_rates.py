"""Rates, as the environment spells them."""

import pytest

from app.core.env import load
from app.core.errors import SettingsError
from app.rates import Rates
from app.settings import WebSettings


def spelt(text: str) -> list[tuple[int, int]]:
    return [(limit.amount, limit.get_expiry()) for limit in Rates.parse(text).limits]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("600/minute", [(600, 60)]),
        ("5 per 2 seconds", [(5, 2)]),
        ("6000/hour;10/second", [(10, 1), (6000, 3600)]),
        ("100/day; 1/minute ; 3/minute", [(1, 60), (3, 60), (100, 86400)]),
        ("unlimited", []),
        (" Unlimited ", []),
    ],
)
def test_limits_are_read_the_shortest_time_first(text: str, limits: list[tuple[int, int]]):
    assert spelt(text) == limits


@pytest.mark.parametrize(
    "text",
    ["many", "600", "/minute", "600/fortnight", "0/minute", "10/minute;0/hour", "-1/minute", "1.5/minute", ";", " "],
)
def test_what_is_no_rate_is_refused(text: str):
    with pytest.raises(ValueError, match="must be like 600/minute"):
        Rates.parse(text)


def test_the_variable_that_is_wrong_is_named_and_stops_the_start():
    environ = {"RATE_LIMIT_READS": "fast", "RATE_LIMIT_POWER": "none"}
    with pytest.raises(SettingsError) as caught:
        load(WebSettings, environ)
    assert "RATE_LIMIT_READS='fast': must be like" in str(caught.value)
    assert "RATE_LIMIT_POWER='none'" in str(caught.value)
    assert "RATE_LIMIT_EXEC" not in str(caught.value)


def test_defaults():
    settings = load(WebSettings, {})
    rates = [
        settings.rate_limit_reads,
        settings.rate_limit_exec,
        settings.rate_limit_power,
        settings.rate_limit_failed_auth,
    ]
    assert [[(limit.amount, limit.get_expiry()) for limit in rate.limits] for rate in rates] == [
        [(6000, 60)],
        [(600, 60)],
        [(60, 60)],
        [(30, 60)],
    ]
