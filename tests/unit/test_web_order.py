"""Equal orders have equal fingerprints, and no others."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.records import CommandRequest
from app.order import Order

ORDER = Order(request=CommandRequest(line="a", stdin="b", env={"C": "d", "E": "f"}, cwd="/g"), timeout_s=1.0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
ORDERS = st.builds(
    Order,
    request=st.builds(
        CommandRequest,
        line=TEXT,
        stdin=st.none() | TEXT,
        env=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
        cwd=st.none() | TEXT,
    ),
    timeout_s=st.none() | st.sampled_from([1.0, 2.0]),
    wait_for_agent_s=st.sampled_from([0.0, 1.0]),
)


@given(ORDERS, ORDERS)
def test_fingerprints_are_equal_where_orders_are(one: Order, other: Order):
    assert (one.fingerprint() == other.fingerprint()) is (one == other)


def test_order_of_variables_does_not_count():
    turned = replace(ORDER, request=replace(ORDER.request, env={"E": "f", "C": "d"}))
    assert turned.fingerprint() == ORDER.fingerprint()


@pytest.mark.parametrize(
    "request_",
    [
        CommandRequest(line="a"),
        CommandRequest(line="a", stdin=""),
        CommandRequest(line="a", env={}),
        CommandRequest(line="a", cwd="/"),
        CommandRequest(line="a", stdin="/"),
    ],
)
def test_empty_is_not_absent(request_: CommandRequest):
    others = [CommandRequest(line="a"), CommandRequest(line="a", stdin=""), CommandRequest(line="a", env={})]
    alike = [other for other in others if Order(request=other).fingerprint() == Order(request=request_).fingerprint()]
    assert alike == [other for other in others if other == request_]


def test_fingerprint_stays_the_same_over_versions():
    assert Order(request=CommandRequest(line="uname -a")).fingerprint() == (
        "be8e899e5cdffccedfbc43e0c5daa302625b64694fc0e5b8c4d42c71d5329160"
    )
