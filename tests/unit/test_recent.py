"""A memory of bounded size."""

from app.recent import Recent


def test_what_was_put_longest_ago_is_forgotten_first():
    recent: Recent[int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    recent.put("a", 3)
    recent.put("c", 4)
    assert [recent.find(name) for name in "abc"] == [3, None, 4]
    assert "b" not in recent


def test_what_was_dropped_is_gone_and_may_be_dropped_again():
    recent: Recent[int] = Recent(2)
    recent.put("a", 1)
    recent.drop("a")
    recent.drop("a")
    assert recent.find("a") is None
