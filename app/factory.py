"""The composition root of the web half: makes every collaborator and hands it to those who use it."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import redis
from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from redis.backoff import NoBackoff
from redis.retry import Retry

from app import audit_trail, docs, health, request_log
from app.access import Access
from app.api import failures
from app.api.json_text import CompactJson
from app.api.openstack import face as openstack
from app.api.v1 import agent_exec, errors, guest_settings, jobs, keys, snapshots, ssh_keys, vms
from app.api.v1.face import BASE, create_api
from app.api.v2 import errors as v2_errors
from app.api.v2 import face as v2_face
from app.api.v2 import routes as v2_routes
from app.audit import Audit
from app.audit_chain import Seal
from app.commands import Commands
from app.core import ids
from app.core.clock import now
from app.core.store import Store
from app.dispatch import Dispatch
from app.files import Files
from app.guard import Guard
from app.guest_calls import GuestCalls
from app.guest_settings import GuestSettings
from app.history import History
from app.inventory import Inventory
from app.jobs import Jobs
from app.keys import Keys
from app.proxies import TrustedProxies
from app.public_ids import PublicIds
from app.results import Results
from app.services import Services, install
from app.settings import WebSettings
from app.snapshots import Snapshots
from app.ssh_keys import SshKeys
from app.throttle import RouteClass, Tally, Throttle
from app.tokens import Tokens
from app.tries import Tries
from app.wakeups import Wakeups

_OTHER_CONNECTIONS = 32
"""To Redis, beside one for each thread: the subscription, the audit trail, those that the store keeps."""


def create_app(
    settings: WebSettings,
    *,
    redis_client: redis.Redis | None = None,
    guard: Guard | None = None,
    wakeups: Wakeups | None = None,
    clock: Callable[[], datetime] = now,
) -> Flask:
    """Make the web application.

    Args:
        settings: The web half's settings.
        redis_client: The one Redis; made from the settings by default.
        guard: Refuses catastrophic commands; its own rules and those of the settings by default.
        wakeups: Tells when a record has changed; one subscription of this application by default.
        clock: Tells the time.
    """
    client = redis_client or connect(settings)
    store = Store(client)
    dispatch = Dispatch(store, client, audit_trail.intent)
    seats = threading.BoundedSemaphore(settings.threads // 2)
    all_wakeups = wakeups or Wakeups(client)
    results, inventory = Results(store, all_wakeups, seats), Inventory(store)
    commands = Commands(
        store=store,
        dispatch=dispatch,
        guard=guard or Guard.from_files(settings.guard_rules_files),
        wakeups=all_wakeups,
        settings=settings,
        results=results,
        inventory=inventory,
        clock=clock,
    )
    tally = Tally(client)
    tries, throttle = Tries(tally, settings.rate_limit_failed_auth), _throttle(tally, settings)
    access = Access(store, tries, clock)
    all_jobs = Jobs(store, dispatch, settings, clock)
    services = Services(
        settings=settings,
        store=store,
        access=access,
        inventory=inventory,
        commands=commands,
        results=results,
        files=Files(store, dispatch, all_wakeups, settings, seats, clock),
        jobs=all_jobs,
        snapshots=Snapshots(store, all_jobs),
        guest_settings=GuestSettings(GuestCalls(store, dispatch, all_wakeups, settings, clock), commands),
        ssh_keys=SshKeys(store, clock),
        keys=Keys(store, clock),
        history=History(store, inventory),
        vps_ids=PublicIds(store, inventory, ids.vps_id),
        server_ids=PublicIds(store, inventory, ids.openstack_id),
        tokens=Tokens(store, access, tries, throttle),
        throttle=throttle,
        audit=Audit(store, Seal(settings.audit_secret), max_entries=settings.audit_max_entries, clock=clock),
        clock=clock,
    )
    return _flask_app(services)


def connect(settings: WebSettings) -> redis.Redis:
    """Make a client that says at once when Redis is away.

    It never sends a command twice: a transaction that broke off may have been carried out. A connection that Redis
    closed while it was idle is noticed and replaced before it is used.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_s,
        socket_connect_timeout=settings.redis_timeout_s,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
        max_connections=settings.threads + _OTHER_CONNECTIONS,  # by default 100: further threads would get an error
    )


def _throttle(tally: Tally, settings: WebSettings) -> Throttle:
    rates = {
        RouteClass.READS: settings.rate_limit_reads,
        RouteClass.EXEC: settings.rate_limit_exec,
        RouteClass.POWER: settings.rate_limit_power,
    }
    return Throttle(tally, rates)


class _SyncFlask(Flask):
    """An application without coroutines: Flask would look for them in every function it calls for a request."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


class _NoSessions(SessionInterface):
    """No request has a session: keys come with each of them, cookies never."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - Flask's method
        """Give the session that nothing can be kept in."""
        return self._none


def _flask_app(services: Services) -> Flask:
    app = _SyncFlask("app", static_folder=None)
    app.session_interface = _NoSessions()
    app.json = CompactJson(app)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.url_map.merge_slashes = False  # a redirect would be an answer without the face's body
    install(app, services)
    request_log.install(app)
    audit_trail.install(app)
    failures.install(app, {BASE: errors.FACE, v2_face.BASE: v2_errors.FACE} | openstack.FACES, otherwise=errors.FACE)
    api = create_api(app)
    v1 = (vms, agent_exec, jobs, guest_settings, ssh_keys, snapshots, keys)
    for blueprint in (routes.blueprint for routes in v1):
        api.register_blueprint(blueprint, url_prefix=BASE)
    v2_routes.register(app)
    openstack.register(app)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    if services.settings.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, services.settings.trusted_proxies)  # type: ignore[method-assign]
    return app
