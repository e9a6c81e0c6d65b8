"""Identifiers have their formats, and the derived ones never change."""

import re
import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from app.core import ids

VMIDS = st.integers(1, 2**63 - 1)
VPS_10000 = "vps_j3rrhzk7x116h5b5kx1x9c1zyc"
SSH_KEY_2830 = "ssh_b71hv655wdqvr636332yh5c0mb"
OPENSTACK_10000 = "e1272ab1-d160-5df9-9ac6-98d2890ec13f"


@given(VMIDS)
def test_vps_id_has_hostups_format(vmid: int):
    assert re.fullmatch(r"vps_[0-9a-hjkmnp-tv-z]{26}", ids.vps_id(vmid))


@given(VMIDS)
def test_openstack_id_is_a_uuid(vmid: int):
    assert str(uuid.UUID(ids.openstack_id(vmid))) == ids.openstack_id(vmid)


def test_derived_ids_are_the_same_for_ever():
    assert ids.vps_id(10000) == VPS_10000
    assert ids.ssh_key_id(2830) == SSH_KEY_2830
    assert ids.openstack_id(10000) == OPENSTACK_10000


@given(st.lists(VMIDS, unique=True, min_size=2))
def test_different_vms_have_different_ids(vmids: list[int]):
    assert len({ids.vps_id(vmid) for vmid in vmids}) == len(vmids)


def test_job_id_is_action_vmid_and_milliseconds():
    moment = datetime(2026, 1, 21, 9, 6, 4, 277_999, tzinfo=UTC)
    assert ids.job_id("start", 17122, moment) == f"start-17122-{int(moment.timestamp()) * 1000 + 277}"


def test_request_and_command_ids_are_uuid_4():
    for made in (ids.request_id(), ids.command_id()):
        assert uuid.UUID(made).version == 4


def test_key_holds_its_public_id_and_256_random_bits():
    key_id = ids.key_id()
    secrets = {ids.key_secret(key_id) for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(rf"ownup_{key_id}_[A-Za-z0-9_-]{{43}}", secret) for secret in secrets)
