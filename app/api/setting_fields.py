"""What every face takes in to set something in a guest, or to keep an SSH key: fields with their limits.

Knows no path and no answer; a face's schema says how each is spelt.
"""

import re
from typing import Any

from marshmallow import ValidationError, fields

from app.api.face import about
from app.api.order_fields import TEXT_MESSAGES, check_unicode
from app.ssh_public_key import LONGEST_CHARS, PublicKey

_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
HOSTNAME_PATTERN = f"{_LABEL}(\\.{_LABEL})*"
"""Source: HostUp v2 docs, PUT hostname; RFC 1123, 2.1."""
HOSTNAME_RULE = "labels of letters, digits and hyphens, 63 characters each at most, with dots between them"
MAX_HOSTNAME_CHARS = 253
MAX_PASSWORD_CHARS = 256
MAX_NAME_CHARS = 100

_KEY_EXAMPLE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@laptop"
_PRINTABLE = "[^\\x00-\\x1f\\x7f]"


class _Text(fields.String):
    """A text that is required, and matches a pattern as a whole."""

    def __init__(self, pattern: str, *, most_chars: int, rule: str, metadata: dict[str, Any]) -> None:
        compiled = re.compile(pattern)

        def check(text: str) -> None:
            check_unicode(text)
            if len(text) > most_chars or not compiled.fullmatch(text):
                raise ValidationError(rule)

        told = {"pattern": f"^{pattern}$", "minLength": 1, "maxLength": most_chars}
        super().__init__(required=True, error_messages=TEXT_MESSAGES, validate=check, metadata=told | metadata)


class Hostname(_Text):
    """A hostname, with or without its domain; a dot at its end does no harm."""

    def __init__(self) -> None:
        super().__init__(
            f"{HOSTNAME_PATTERN}\\.?",
            most_chars=MAX_HOSTNAME_CHARS,
            rule=f"must be {HOSTNAME_RULE}, {MAX_HOSTNAME_CHARS} characters in all at most",
            metadata=about("With or without its domain.") | {"example": "web-1.example.com"},
        )


class Password(_Text):
    """A password. What is wrong with it is told without it."""

    def __init__(self) -> None:
        super().__init__(
            f"{_PRINTABLE}+",
            most_chars=MAX_PASSWORD_CHARS,
            rule=f"must be 1 to {MAX_PASSWORD_CHARS} characters long, without control characters",
            metadata=about("Of `root`; of `Administrator` in a Windows guest."),
        )


class KeyName(_Text):
    """What somebody calls a key."""

    def __init__(self) -> None:
        super().__init__(
            f"{_PRINTABLE}*[^\\s\\x00-\\x1f\\x7f]{_PRINTABLE}*",
            most_chars=MAX_NAME_CHARS,
            rule=f"must be 1 to {MAX_NAME_CHARS} characters on one line, and not blank",
            metadata={"example": "laptop"},
        )


class KeyNumber(_Text):
    """The number of an SSH key, as text."""

    def __init__(self) -> None:
        super().__init__(
            "[1-9][0-9]{0,17}", most_chars=18, rule="must be the id of an SSH key: digits, as text", metadata={}
        )


class PublicKeyLine(fields.String):
    """A public SSH key, as its ``.pub`` file has it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            required=True,
            error_messages=TEXT_MESSAGES,
            validate=_check_public_key,
            metadata=about("One line, as a `.pub` file has it.")
            | {"minLength": 1, "maxLength": LONGEST_CHARS, "example": _KEY_EXAMPLE},
            **kwargs,
        )


def _check_public_key(line: str) -> None:
    try:
        PublicKey.read(line)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc
