"""The ``ownup`` command: makes, lists and withdraws API keys, straight in the store. The rest of it is elsewhere."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click

from app.access import TENANT_SCOPES, Scope, issue_key
from app.cli_audit import audit_group
from app.core.clock import now
from app.core.env import load
from app.core.errors import OwnUpError
from app.core.records import ApiKey
from app.core.store import Store, keys
from app.factory import connect
from app.settings import WebSettings


def _not_blank(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("must not be blank")
    return value


@click.group()
def main() -> None:
    """Look after an OwnUp installation."""


main.add_command(audit_group)


@main.group("keys")
def keys_group() -> None:
    """Make, list and revoke API keys."""


@keys_group.command()
@click.option("--account", required=True, callback=_not_blank, help="The account whose VMs the key sees.")
@click.option("--name", required=True, help="What the key is for.")
@click.option(
    "--scopes", required=True, help=f"Comma-separated list of {', '.join(Scope)}; or: all, which is all but admin."
)
@click.option("--expires-in-days", type=click.IntRange(1, 36500), help="Default: never.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(account: str, name: str, scopes: str, expires_in_days: int | None, *, as_json: bool) -> None:
    """Make an API key. Its secret is shown this once."""
    created_at = now()
    expires_at = None if expires_in_days is None else created_at + timedelta(days=expires_in_days)
    key, secret = issue_key(account, name, _parse_scopes(scopes), created_at, expires_at)
    with _store() as store:
        store.run(keys.save(key))
    if as_json:
        click.echo(json.dumps({"keyId": key.id, "secret": secret} | _describe(key)))
        return
    click.echo(f"Key {key.id} for account {account}: {', '.join(key.scopes)}")
    click.echo(f"Secret, shown only now: {secret}")


@keys_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(*, as_json: bool) -> None:
    """List all API keys, without their secrets."""
    with _store() as store:
        found = store.run(keys.list_all())
    if as_json:
        click.echo(json.dumps([{"keyId": key.id} | _describe(key) | _life(key) for key in found]))
        return
    for key in found:
        click.echo("  ".join((key.id, f"{_state(key):7}", key.account, ",".join(key.scopes), key.name)))


@keys_group.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Withdraw an API key, at once and for good."""
    with _store() as store:
        key = _get_key(store, key_id)
        if key.revoked_at is None:
            store.run(keys.save(replace(key, revoked_at=now())))
    click.echo(f"Key {key_id} is revoked")


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
        yield Store(connect(settings))
    except OwnUpError as exc:
        raise click.ClickException(str(exc)) from exc


def _get_key(store: Store, key_id: str) -> ApiKey:
    key = store.run(keys.find(key_id))
    if key is None:
        raise click.ClickException(f"There is no key {key_id}")
    return key


def _describe(key: ApiKey) -> dict[str, Any]:
    return {
        "account": key.account,
        "name": key.name,
        "scopes": list(key.scopes),
        "createdAt": key.created_at.isoformat(),
        "expiresAt": _iso(key.expires_at),
    }


def _life(key: ApiKey) -> dict[str, Any]:
    return {"revokedAt": _iso(key.revoked_at), "state": _state(key)}


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now() else "active"
