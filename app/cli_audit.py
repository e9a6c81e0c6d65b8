"""``ownup audit``: shows, exports and verifies the audit trail, straight in the store."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any

import click

from app import audit_chain
from app.audit_chain import Finding, Seal, Verifier
from app.core.env import load
from app.core.errors import OwnUpError
from app.core.redis_url import insist_on_access
from app.core.store import Store, audit
from app.core.store.audit import FROM_THE_FIRST, Head, Link, Page
from app.factory import connect
from app.settings import WebSettings

_PAGE = 1000
_FOLLOW_S = 0.5
_SHOWN_FINDINGS = 20


class _Moment(click.ParamType[datetime]):
    """A moment in ISO 8601; without an offset it is UTC."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail("must be like 2026-02-10 or 2026-02-10T12:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group("audit")
def audit_group() -> None:
    """Show, export and verify the audit trail."""


@audit_group.command()
@click.option("-n", "count", type=click.IntRange(0), default=20, show_default=True, help="How many entries.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def tail(count: int, *, follow: bool, as_json: bool) -> None:
    """Show the latest entries."""
    with _store() as (store, _):
        page = store.run(audit.read_latest(max(count, 1)))
        _show(page.links[-count:] if count else (), as_json=as_json)
        while follow:
            page = store.run(audit.read_page(page.after, _PAGE))
            _show(page.links, as_json=as_json)
            if not page.links:
                time.sleep(_FOLLOW_S)


@audit_group.command()
@click.option("--since", type=_Moment(), help="Only what was appended then or later, by Redis's clock.")
def export(since: datetime | None) -> None:
    """Print the trail as JSON lines, oldest first, each with its hash: `verify --file` can check them."""
    with _store() as (store, _):
        for page in _pages(store, since):
            _show(page.links, as_json=True)


@audit_group.command()
@click.option(
    "--file", type=click.File(encoding="utf-8", errors="replace"), help="What `export` printed, - for standard input."
)
def verify(file: TextIOBase | None) -> None:
    """Check that nothing in the trail was changed, removed, added or moved; needs AUDIT_SECRET where web has it.

    What was taken from the beginning or the end of a file can't be noticed, in Redis it can.

    Exit code 1 tells that something was.
    """
    with _store() as (store, seal):
        verifier, findings = _verify_file(seal, file) if file else _verify_store(seal, store)
    for finding in findings[:_SHOWN_FINDINGS]:
        click.echo(f"{_range(finding)}: {finding.damage} ({finding.detail})")
    if len(findings) > _SHOWN_FINDINGS:
        click.echo(f"and {len(findings) - _SHOWN_FINDINGS} more")
    if findings:
        click.get_current_context().exit(1)
    numbers = f", {verifier.last - verifier.count + 1} to {verifier.last}" if verifier.count else ""
    click.echo(f"{verifier.count} entries{numbers}: the chain is whole")


def _verify_store(seal: Seal, store: Store) -> tuple[Verifier, tuple[Finding, ...]]:
    pages = _pages(store, None)
    page = next(pages)
    verifier = Verifier(seal, (page.head or Head()).first)
    verifier.follow_all(page.links)
    for page in pages:
        verifier.follow_all(page.links)
    return verifier, verifier.end(page.head or Head())


def _verify_file(seal: Seal, file: TextIOBase) -> tuple[Verifier, tuple[Finding, ...]]:
    verifier = Verifier(seal)
    verifier.follow_all(audit_chain.load(line.rstrip("\n")) for line in file)
    return verifier, verifier.end(None)


def _pages(store: Store, since: datetime | None) -> Iterator[Page]:
    """Read the trail to its end: the last page is the first one that isn't full."""
    first = audit.read_page(FROM_THE_FIRST, _PAGE) if since is None else audit.read_since(since, _PAGE)
    page = store.run(first)
    yield page
    while len(page.links) == _PAGE:
        page = store.run(audit.read_page(page.after, _PAGE))
        yield page


def _show(links: Iterable[Link], *, as_json: bool) -> None:
    for link in links:
        click.echo(audit_chain.dump(link) if as_json else _line(audit_chain.read(link)))


def _line(entry: dict[str, Any]) -> str:
    """Write an entry for people: when, who, what, outcome; what the trail says of itself has only some of them."""
    who, what, outcome = (entry.get(name) or {} for name in ("who", "what", "outcome"))
    key_id = who.get("keyId") or (f"({who['claimedKeyId']})" if who.get("claimedKeyId") else None)
    told = {"method", "route", "path", "vmid"}
    facts = (f"{name}={value!r}" for name, value in what.items() if name not in told)
    words = (
        *(entry.get(name) for name in ("seq", "when", "requestId")),
        *(key_id, who.get("account"), who.get("address")),
        *(what.get("method"), what.get("route"), what.get("vmid")),
        *(outcome.get("status"), outcome.get("error")),
    )
    return "  ".join((*("-" if word is None else str(word) for word in words), *facts))


def _range(finding: Finding) -> str:
    return str(finding.first) if finding.first == finding.last else f"{finding.first} to {finding.last}"


@contextmanager
def _store() -> Iterator[tuple[Store, Seal]]:
    """Give the store that ``REDIS_URL`` names, and the seal of ``AUDIT_SECRET``.

    Raises:
        ClickException: A setting is wrong, or Redis is away.
    """
    try:
        settings = load(WebSettings, os.environ)
        insist_on_access(settings.redis_url, settings.redis_timeout_s)
        yield Store(connect(settings)), Seal(settings.audit_secret)
    except OwnUpError as exc:
        raise click.ClickException(str(exc)) from exc
