"""The entry point for gunicorn: ``gunicorn --config python:app.serving app.wsgi:app``."""

import atexit
import os

from app.core import logs
from app.core.env import load
from app.factory import create_app
from app.settings import WebSettings

settings = load(WebSettings, os.environ)
logs.configure(settings.log_level)
app = create_app(settings)
atexit.register(app.extensions["ownup"].audit.close)
