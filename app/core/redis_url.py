"""The address of the one Redis, with its password if it has one. What is wrong with it is told without it."""

import ssl
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from app.core.errors import SettingsError

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisUrl(str):
    """A URL that a Redis client can be made from."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one.

        Raises:
            ValueError: It can't be used. Python's own words would show a part of the password.
        """
        try:
            options = parse_url(text)  # type: ignore[no-untyped-call]
        except ValueError:
            raise ValueError(
                "must be redis://, rediss:// or unix://, with %2F for a slash in a password and so on"
            ) from None
        for name in _FILES:
            if name in options and not Path(options[name]).is_file():
                raise ValueError(f"{name} names no file: {options[name]}")
        try:
            redis.Redis.from_url(text).connection_pool.make_connection()  # connects to nothing yet
        except (TypeError, redis.RedisError) as exc:
            raise ValueError(f"has an option that is none: {exc}") from None
        return cls(text)


def insist_on_access(url: RedisUrl, timeout_s: float) -> None:
    """Insist that Redis lets us in, and that it is the one we mean. One that is away may come later.

    Raises:
        SettingsError: It refuses the password, or its certificate isn't one to trust.
    """
    limits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
    with redis.Redis.from_url(url, **limits) as client:
        try:
            client.ping()
        except redis.AuthenticationError:
            raise SettingsError("REDIS_URL: Redis refuses this user name and password") from None
        except redis.ConnectionError as exc:
            if isinstance(exc.__context__, ssl.SSLCertVerificationError):
                words = exc.__context__.verify_message
                raise SettingsError(f"REDIS_URL: the certificate of Redis is not trusted: {words}") from None
        except redis.TimeoutError:
            pass
