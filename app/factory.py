"""The composition root of the web half: makes every collaborator and hands it to those who use it."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from app import docs, health, request_log
from app.access import Access
from app.api import failures
from app.api.json_text import CompactJson
from app.api.v1 import agent_exec, errors, jobs, vms
from app.api.v1.face import BASE, create_api
from app.commands import Commands
from app.core.clock import now
from app.core.store import Store
from app.dispatch import Dispatch
from app.guard import Guard
from app.inventory import Inventory
from app.power_jobs import PowerJobs
from app.services import Services, install
from app.settings import WebSettings
from app.wakeups import Wakeups


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
    dispatch = Dispatch(client)
    commands = Commands(
        store=store,
        dispatch=dispatch,
        guard=guard or Guard.from_files(settings.guard_rules_files),
        wakeups=wakeups or Wakeups(client),
        settings=settings,
        seats=threading.BoundedSemaphore(settings.threads // 2),
        clock=clock,
    )
    services = Services(
        settings=settings,
        store=store,
        access=Access(store, clock),
        inventory=Inventory(store),
        commands=commands,
        power_jobs=PowerJobs(store, dispatch, settings, clock),
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
    )


class _SyncFlask(Flask):
    """An application without coroutines: Flask would look for them in every function it calls for a request."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def _flask_app(services: Services) -> Flask:
    app = _SyncFlask("app", static_folder=None)
    app.json = CompactJson(app)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.url_map.merge_slashes = False  # a redirect would be an answer without the face's body
    install(app, services)
    request_log.install(app)
    failures.install(app, {BASE: errors.FACE}, otherwise=errors.FACE)
    api = create_api(app)
    for blueprint in (vms.blueprint, agent_exec.blueprint, jobs.blueprint):
        api.register_blueprint(blueprint, url_prefix=BASE)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    return app
