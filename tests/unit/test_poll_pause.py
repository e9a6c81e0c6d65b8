"""When a running command is polled next: by its age, and those that are due every second not all at once."""

import random

import pytest

from workers.commands.watch import first_pause_s, poll_pause_s


@pytest.mark.parametrize(("start_took_s", "pause_s"), [(0, 0), (0.0008, 0.0004), (0.008, 0.004), (5, 0.02)])
def test_a_new_one_is_left_alone_for_half_of_what_its_start_took(start_took_s: float, pause_s: float) -> None:
    assert first_pause_s(start_took_s) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("elapsed_s", "neighbours", "pause_s"),
    [(0, 0, 0.0005), (0.01, 0, 0.0005), (1, 0, 0.05), (10, 0, 0.5), (19, 0, 0.95), (0, 10, 0.04), (10, 10, 0.5)],
)
def test_a_young_one_is_polled_by_its_age_and_by_what_else_runs_there(
    elapsed_s: float, neighbours: int, pause_s: float
) -> None:
    for moment_s in (0.0, 0.3, 7.9):
        assert poll_pause_s(elapsed_s, neighbours=neighbours, moment_s=moment_s) == pytest.approx(pause_s)


@pytest.mark.parametrize(("elapsed_s", "neighbours"), [(20, 0), (86_400, 0), (1, 250), (0, 10_000)])
@pytest.mark.parametrize(("moment_s", "pause_s"), [(0, 1), (0.02, 0.98), (0.7, 0.3), (5.7, 0.3), (-0.2, 0.2)])
def test_an_old_one_is_polled_every_second_at_its_own_moment(
    elapsed_s: float, neighbours: int, moment_s: float, pause_s: float
) -> None:
    assert poll_pause_s(elapsed_s, neighbours=neighbours, moment_s=moment_s) == pytest.approx(pause_s)


def test_old_ones_that_a_stall_has_polled_at_the_same_time_are_not_the_next_time() -> None:
    """A thousand, all due within half a second, are polled at once when it is over: the next polls are spread again."""
    drawn = random.Random(1)
    stall_ends_s = 1000.5
    moments = [drawn.uniform(0, 0.5) for _ in range(1000)]
    next_polls = [stall_ends_s + poll_pause_s(100, moment_s=stall_ends_s - moment) for moment in moments]
    in_tenths = [sum(tenth <= at_s - 1001 < tenth + 0.1 for at_s in next_polls) for tenth in (0, 0.1, 0.2, 0.3, 0.4)]
    assert sum(in_tenths) == 1000
    assert all(150 < count < 250 for count in in_tenths), in_tenths
