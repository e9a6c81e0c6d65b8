"""``ownup keys``: makes, lists, rolls, switches off and withdraws API keys, straight in the store.

Who may run it is an operator: no limit of any key applies.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click

from app import allowed_commands, allowed_ips
from app.access import TENANT_SCOPES, Scope, issue_key, roll_key
from app.core import ids
from app.core.clock import now
from app.core.env import load
from app.core.errors import OwnUpError
from app.core.records import ApiKey
from app.core.redis_url import insist_on_access
from app.core.store import Store, keys
from app.core.store.keys import MOST_OF_AN_ACCOUNT
from app.factory import connect
from app.keys import MAX_LIFE_DAYS, change, has_expired
from app.settings import WebSettings

_MAX_VMID = 2**63 - 1


def _not_blank(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("must not be blank")
    return value


def _networks(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(allowed_ips.normalise(value) for value in values)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _patterns(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    if not all(map(allowed_commands.is_pattern, values)):
        raise click.BadParameter(allowed_commands.PATTERN_RULE)
    return tuple(values)


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("keys")
def keys_group() -> None:
    """Make, list, roll, switch off and revoke API keys."""


@keys_group.command()
@click.option("--account", required=True, callback=_not_blank, help="The account whose VMs the key sees.")
@click.option("--name", required=True, help="What the key is for.")
@click.option(
    "--scopes", required=True, help=f"Comma-separated list of {', '.join(Scope)}; or: all, which is all but admin."
)
@click.option("--expires-in-days", type=click.IntRange(1, MAX_LIFE_DAYS), help="Default: never.")
@click.option("--description", help="More about it.")
@click.option("--test", "is_test", is_flag=True, help="Note that it is for trying things out; changes nothing.")
@click.option(
    "--allow-ip", "allowed_ips", multiple=True, callback=_networks, help="A network it may be used from; repeatable."
)
@click.option(
    "--allow-vmid",
    "allowed_vmids",
    multiple=True,
    type=click.IntRange(1, _MAX_VMID),
    help="A VM it sees, and no others; repeatable.",
)
@click.option(
    "--allow-command",
    "allowed_commands",
    multiple=True,
    callback=_patterns,
    help="Pattern of a command it may run, and no others; * is a part of a word; repeatable.",
)
@_as_json
def create(  # one parameter an option
    account: str, name: str, scopes: str, expires_in_days: int | None, *, as_json: bool, **settings: Any
) -> None:
    """Make an API key. Its secret is shown this once."""
    created_at = now()
    expires_at = None if expires_in_days is None else created_at + timedelta(days=expires_in_days)
    bare, secret = issue_key(account, name, _parse_scopes(scopes), created_at, expires_at)
    key = replace(bare, **settings)
    with _store() as store:
        _add(store, key)
    _show_secret(key, secret, as_json=as_json)


@keys_group.command("list")
@_as_json
def list_keys(*, as_json: bool) -> None:
    """List all API keys, without their secrets."""
    with _store() as store:
        found = store.run(keys.list_all())
    if as_json:
        click.echo(json.dumps([{"keyId": key.id} | _describe(key) | _life(key) for key in found]))
        return
    for key in found:
        words = (key.id, f"{_state(key):7}", key.account, ",".join(key.scopes), _last_use(key), *_limits(key), key.name)
        click.echo("  ".join(words))


@keys_group.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Withdraw an API key, at once and for good."""
    _change(key_id, lambda key: key if key.revoked_at else replace(key, revoked_at=now()))
    click.echo(f"Key {key_id} is revoked")


@keys_group.command()
@click.argument("key_id")
@_as_json
def roll(key_id: str, *, as_json: bool) -> None:
    """Give an API key another secret, which is shown this once; the old one counts no more."""
    issued = ""

    def make(key: ApiKey) -> ApiKey:
        nonlocal issued
        rolled, issued = roll_key(_alive(key))
        return rolled

    _show_secret(_change(key_id, make), issued, as_json=as_json)


@keys_group.command()
@click.argument("key_id")
def disable(key_id: str) -> None:
    """Switch an API key off until it is enabled again."""
    _change(key_id, lambda key: replace(_alive(key), is_active=False))
    click.echo(f"Key {key_id} is off")


@keys_group.command()
@click.argument("key_id")
def enable(key_id: str) -> None:
    """Switch an API key on again."""
    _change(key_id, lambda key: replace(_alive(key), is_active=True))
    click.echo(f"Key {key_id} is on")


def _parse_scopes(text: str) -> tuple[str, ...]:
    if text == "all":
        return TENANT_SCOPES
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [scope for scope in wanted if scope not in set(Scope)]
    if unknown or not wanted:
        known = ", ".join((*Scope, "all"))
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no scope; known are {known}", param_hint="--scopes"
        )
    return tuple(dict.fromkeys(wanted))


@contextmanager
def _store() -> Iterator[Store]:
    """Give the store that ``REDIS_URL`` names, and turn what goes wrong there into a message and exit code 1.

    Raises:
        ClickException: A setting is wrong, or Redis is away.
    """
    try:
        settings = load(WebSettings, os.environ)
        insist_on_access(settings.redis_url, settings.redis_timeout_s)
        yield Store(connect(settings))
    except OwnUpError as exc:
        raise click.ClickException(str(exc)) from exc


def _add(store: Store, key: ApiKey) -> None:
    """Store a new key.

    Raises:
        ClickException: Its account has as many as it may.
    """
    if not store.run(keys.add(key)):
        raise click.ClickException(f"Account {key.account} has {MOST_OF_AN_ACCOUNT} keys; revoke one first")


def _change(key_id: str, make: Callable[[ApiKey], ApiKey]) -> ApiKey:
    with _store() as store:
        return change(store, lambda: _get_key(store, key_id), make)


def _get_key(store: Store, key_id: str) -> ApiKey:
    key = store.run(keys.find(key_id)) if ids.is_key_id(key_id) else None
    if key is None:
        raise click.ClickException(f"There is no key {key_id}")
    return key


def _alive(key: ApiKey) -> ApiKey:
    """Insist that a key can count again.

    Raises:
        ClickException: It is revoked, or has expired.
    """
    if key.revoked_at is not None or has_expired(key, now()):
        raise click.ClickException(f"Key {key.id} is {_state(key)}, for good; make another one")
    return key


def _show_secret(key: ApiKey, secret: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"keyId": key.id, "secret": secret} | _describe(key)))
        return
    click.echo(f"Key {key.id} for account {key.account}: {', '.join(key.scopes)}")
    click.echo(f"Secret, shown only now: {secret}")


def _describe(key: ApiKey) -> dict[str, Any]:
    return {
        "account": key.account,
        "name": key.name,
        "description": key.description,
        "scopes": list(key.scopes),
        "allowedIps": list(key.allowed_ips),
        "allowedVmids": list(key.allowed_vmids),
        "allowedCommands": list(key.allowed_commands),
        "isTest": key.is_test,
        "isActive": key.is_active,
        "createdAt": key.created_at.isoformat(),
        "createdBy": key.created_by,
        "expiresAt": _iso(key.expires_at),
    }


def _life(key: ApiKey) -> dict[str, Any]:
    return {"lastUsedAt": _iso(key.last_used_at), "revokedAt": _iso(key.revoked_at), "state": _state(key)}


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if has_expired(key, now()):
        return "expired"
    return "active" if key.is_active else "off"


def _last_use(key: ApiKey) -> str:
    return f"used:{key.last_used_at.isoformat(timespec='minutes')}" if key.last_used_at else "used:never"


def _limits(key: ApiKey) -> Iterator[str]:
    """Tell what a key is limited to, in a few words; the JSON has the commands."""
    if key.allowed_ips:
        yield f"ips:{','.join(key.allowed_ips)}"
    if key.allowed_vmids:
        yield f"vmids:{','.join(map(str, key.allowed_vmids))}"
    if key.allowed_commands:
        yield f"commands:{len(key.allowed_commands)}"
