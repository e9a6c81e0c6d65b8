"""What views may use: the collaborators that the composition root made, as one typed object."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from flask import Flask

from app.access import Access
from app.audit import Audit
from app.commands import Commands
from app.core.store import Store
from app.files import Files
from app.guest_settings import GuestSettings
from app.history import History
from app.inventory import Inventory
from app.jobs import Jobs
from app.keys import Keys
from app.present import present_app
from app.public_ids import PublicIds
from app.results import Results
from app.settings import WebSettings
from app.snapshots import Snapshots
from app.ssh_keys import SshKeys
from app.throttle import Throttle
from app.tokens import Tokens

_EXTENSION = "ownup"


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of one application."""

    settings: WebSettings
    store: Store
    access: Access
    inventory: Inventory
    commands: Commands
    results: Results
    files: Files
    jobs: Jobs
    snapshots: Snapshots
    guest_settings: GuestSettings
    ssh_keys: SshKeys
    keys: Keys
    history: History
    throttle: Throttle
    vps_ids: PublicIds
    server_ids: PublicIds
    tokens: Tokens
    audit: Audit
    clock: Callable[[], datetime]


def install(app: Flask, services: Services) -> None:
    """Give an application its collaborators."""
    app.extensions[_EXTENSION] = services


def services() -> Services:
    """Get the collaborators of the application that serves the present request."""
    found: Services = present_app().extensions[_EXTENSION]
    return found
