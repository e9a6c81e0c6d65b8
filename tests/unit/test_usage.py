"""Averages of figures: shares and rates by time, and nothing made up where a counter began anew."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.store.metrics import Usage
from workers.vms.figures import Figures
from workers.vms.usage import Meter

FIGURES = Figures(
    booted_at=datetime(2026, 2, 10, tzinfo=UTC),
    cpu=0.5,
    mem_bytes=50,
    netin_bytes=0,
    netout_bytes=0,
    diskread_bytes=1000,
    diskwrite_bytes=0,
)


def measured(*samples: tuple[float, Figures], maxmem_bytes: int | None = 100) -> Meter:
    meter = Meter()
    for at_s, figures in samples:
        meter.take(figures, maxmem_bytes=maxmem_bytes, at_s=at_s)
    return meter


def test_one_sample_says_nothing_of_any_time():
    meter = measured((0, FIGURES))
    assert (meter.readings, meter.covered_s, meter.tell()) == (0, 0.0, Usage())


def test_rates_are_what_counters_grew_by_the_second():
    meter = measured((10, FIGURES), (12, replace(FIGURES, diskread_bytes=1500, netout_bytes=8)))
    assert (meter.readings, meter.covered_s) == (1, 2.0)
    assert meter.tell() == Usage(
        cpu=0.5,
        mem=0.5,
        diskread_bytes_per_s=250.0,
        diskwrite_bytes_per_s=0.0,
        netin_bytes_per_s=0.0,
        netout_bytes_per_s=4.0,
    )


def test_longer_stretches_weigh_more():
    usage = measured((0, FIGURES), (1, replace(FIGURES, cpu=1.0)), (4, replace(FIGURES, cpu=0.2))).tell()
    assert usage.cpu == pytest.approx((1.0 * 1 + 0.2 * 3) / 4)


def test_telling_begins_anew_and_forgets_no_counter():
    meter = measured((0, FIGURES), (1, FIGURES))
    meter.tell()
    assert (meter.readings, meter.covered_s) == (0, 0.0)
    meter.take(replace(FIGURES, diskread_bytes=1007, cpu=1.0), maxmem_bytes=100, at_s=2)
    assert meter.tell().diskread_bytes_per_s == 7


def test_a_counter_that_fell_gives_no_rate_and_the_others_do():
    usage = measured((0, FIGURES), (1, replace(FIGURES, diskread_bytes=3, diskwrite_bytes=3))).tell()
    assert (usage.diskread_bytes_per_s, usage.diskwrite_bytes_per_s) == (None, 3.0)


def test_another_qemu_process_is_not_compared_with_the_one_before():
    later = replace(FIGURES, booted_at=datetime(2026, 2, 11, tzinfo=UTC), diskread_bytes=9_000_000)
    meter = measured((0, FIGURES), (1, later))
    assert meter.tell() == Usage()
    meter.take(replace(later, diskread_bytes=9_000_005), maxmem_bytes=100, at_s=2)
    assert meter.tell().diskread_bytes_per_s == 5


def test_what_is_not_known_stays_unknown():
    nothing = Figures(booted_at=FIGURES.booted_at)
    assert measured((0, nothing), (1, nothing), maxmem_bytes=None).tell() == Usage()
    assert measured((0, FIGURES), (1, nothing)).tell() == Usage()


def test_memory_is_never_more_than_all():
    assert measured((0, FIGURES), (1, replace(FIGURES, mem_bytes=101))).tell().mem == 1.0


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 2**40)), min_size=1, max_size=20))
def test_no_rate_is_ever_negative(steps: list[tuple[float, int]]):
    at_s, samples = 0.0, [(0.0, FIGURES)]
    for elapsed_s, counter in steps:
        at_s += elapsed_s
        samples.append((at_s, replace(FIGURES, diskread_bytes=counter, netin_bytes=counter)))
    usage = measured(*samples).tell()
    for rate in (usage.diskread_bytes_per_s, usage.netin_bytes_per_s):
        assert rate is None or rate >= 0
