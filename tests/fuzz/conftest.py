"""What every test that tries generated inputs needs: a tally that is told on the screen."""

from collections.abc import Iterator

import pytest

from tests.fuzz.budget import Tally


@pytest.fixture
def tally(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Tally]:
    """Counts the inputs of a test; what it is called there is the test's name."""
    found = Tally()
    yield found
    what = request.node.name.removeprefix("test_").replace("_", " ")
    with capsys.disabled():
        print(f"\n{found.line(what)}")
