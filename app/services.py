"""What views may use: the collaborators that the composition root made, as one typed object."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from flask import Flask, current_app

from app.access import Access
from app.commands import Commands
from app.core.store import Store
from app.inventory import Inventory
from app.power_jobs import PowerJobs
from app.settings import WebSettings

_EXTENSION = "ownup"


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of one application."""

    settings: WebSettings
    store: Store
    access: Access
    inventory: Inventory
    commands: Commands
    power_jobs: PowerJobs
    clock: Callable[[], datetime]


def install(app: Flask, services: Services) -> None:
    """Give an application its collaborators."""
    app.extensions[_EXTENSION] = services


def services() -> Services:
    """Get the collaborators of the application that serves the present request."""
    return cast("Services", current_app.extensions[_EXTENSION])
