"""Keys and principals, without Redis."""

import hashlib
import re
from datetime import UTC, datetime

import pytest

from app.access import Principal, Scope, issue_key
from app.core.errors import ForbiddenError

NOW = datetime(2026, 2, 10, tzinfo=UTC)


def test_record_of_a_key_has_the_hash_and_not_the_secret():
    key, secret = issue_key("acme", "ci", [Scope.READ_VM], NOW, None)
    assert key.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert re.fullmatch(rf"ownup_{key.id}_.{{43}}", secret)
    assert secret.rpartition("_")[2] not in repr(key)


def test_scope_that_is_there_is_enough():
    Principal("k", "acme", frozenset({"write:vm"})).require(Scope.WRITE_VM)


@pytest.mark.parametrize("scopes", [set(), {"read:vm"}, {"write"}, {"write:vm "}])
def test_no_scope_stands_for_another(scopes: set[str]):
    with pytest.raises(ForbiddenError, match="write:vm"):
        Principal("k", "acme", frozenset(scopes)).require(Scope.WRITE_VM)
