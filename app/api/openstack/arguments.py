"""What this face takes in: logins, list queries and actions, each with its limits."""

from dataclasses import dataclass, field
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema
from marshmallow.fields import List, Nested, String

from app.api.face import about
from app.api.openstack.paging import MAX_PAGE
from app.api.parsing import PlainInteger
from app.core.records import PowerAction

METHODS = ("password", "application_credential", "token")

_EXAMPLE_KEY = "ownup_0123456789abcdef_secret"
_LOGIN_EXAMPLE = {
    "identity": {
        "methods": ["password"],
        "password": {"user": {"name": "ci", "domain": {"id": "default"}, "password": _EXAMPLE_KEY}},
    }
}

# --- logging in -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client logs in with.

    Attributes:
        method: One of `METHODS`.
        secret: The API key; for the method ``token`` perhaps a token.
        project: The project it wants, by id or name; ``None`` leaves that to us.
    """

    method: str
    secret: str = field(repr=False)
    project: str | None


class DomainBody(Schema):
    """A domain; there is only one, so nothing depends on it."""

    id = String()
    name = String()


class UserBody(Schema):
    """A user, of any name."""

    id = String()
    name = String()
    domain = Nested(DomainBody)


class PasswordUserBody(UserBody):
    """A user with a password."""

    password = String(required=True, metadata=about("An API key."))


class PasswordBody(Schema):
    """The method `password`."""

    user = Nested(PasswordUserBody, required=True)


class ApplicationCredentialBody(Schema):
    """The method `application_credential`; its id or name may be anything."""

    id = String()
    name = String()
    user = Nested(UserBody)
    secret = String(required=True, metadata=about("An API key."))


class TokenBody(Schema):
    """The method `token`."""

    id = String(required=True, metadata=about("A token, or an API key."))


class IdentityBody(Schema):
    """Who logs in: one method, and the member of its name."""

    methods = List(
        String(validate=validate.OneOf(METHODS)),
        required=True,
        validate=validate.Length(equal=1),
    )
    password = Nested(PasswordBody)
    application_credential = Nested(ApplicationCredentialBody)
    token = Nested(TokenBody)

    @validates_schema
    def _check_method(self, data: dict[str, Any], **_kwargs: Any) -> None:
        for method in data["methods"]:
            if method not in data:
                raise ValidationError("is required", method)


class ProjectBody(Schema):
    """A project."""

    id = String()
    name = String()
    domain = Nested(DomainBody)


class ScopeBody(Schema):
    """What the token is to be good for."""

    project = Nested(ProjectBody, metadata=about("The key's account, or nothing."))


class LoginBody(Schema):
    """What a client logs in with, and for which project."""

    identity = Nested(IdentityBody, required=True)
    scope = Nested(ScopeBody)


class AuthBody(Schema):
    """A login."""

    auth = Nested(LoginBody, required=True, metadata={"example": _LOGIN_EXAMPLE})

    @post_load
    def _make_credentials(self, data: dict[str, Any], **_kwargs: Any) -> dict[str, Credentials]:
        identity, scope = data["auth"]["identity"], data["auth"].get("scope", {})
        (method,) = identity["methods"]
        project = scope.get("project", {})
        secret = _secret(method, identity[method])
        return {"credentials": Credentials(method, secret, project.get("id", project.get("name")))}


def _secret(method: str, given: dict[str, Any]) -> str:
    match method:
        case "password":
            secret: str = given["user"]["password"]
        case "token":
            secret = given["id"]
        case _:
            secret = given["secret"]
    return secret


class SubjectHeader(Schema):
    """The token that a request is about."""

    subject = String(required=True, data_key="X-Subject-Token")


# --- lists ------------------------------------------------------------------------------------------------------------


class Upper(String):
    """A text whose case doesn't count."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, *args, **kwargs).upper()


class PageQuery(Schema):
    """Which part of a list is wanted."""

    limit = PlainInteger(load_default=MAX_PAGE, metadata=about(f"At most so many; {MAX_PAGE} at the most."))
    marker = String(load_default=None, metadata=about("The id of the last one of the page before."))


class ServersQuery(PageQuery):
    """Which servers are wanted. A filter that isn't known is refused, so that nobody gets more than was asked for."""

    error_messages = {"unknown": "is not supported"}  # noqa: RUF012 - marshmallow's own way to say it

    name = String(
        metadata=about("A part of the name; `^` and `$` tie it to its ends, any other character stands for itself.")
    )
    status = Upper(metadata=about("As a server has it, in any case."))
    flavor = String(metadata=about("The id of the flavor."))
    uuid = String(metadata=about("The id of the server."))
    deleted = fields.Boolean(load_default=False, metadata=about("There are no deleted servers to be listed."))


class FlavorsQuery(PageQuery):
    """Which flavors are wanted."""

    is_public = fields.Boolean(
        truthy={"True", "true", "1", "None", "none"},
        falsy={"False", "false", "0"},
        load_default=True,
        metadata=about("`True`, `False`, or `None` for both; all flavors are public."),
    )


# --- actions ----------------------------------------------------------------------------------------------------------


class RebootBody(Schema):
    """How to reboot."""

    type = String(
        required=True,
        validate=validate.OneOf(("SOFT", "HARD", "Soft", "Hard", "soft", "hard")),
        metadata=about("`SOFT` asks the guest, `HARD` presses the reset button."),
    )


class ActionBody(Schema):
    """What is to be done to a server: one member, named for the action."""

    error_messages = {"unknown": "There is no such action"}  # noqa: RUF012 - marshmallow's own way to say it

    os_start = fields.Raw(data_key="os-start", allow_none=True, metadata=about("Start it; the value means nothing."))
    os_stop = fields.Raw(
        data_key="os-stop",
        allow_none=True,
        metadata=about("Ask the guest to shut down; switch it off if it doesn't in time. The value means nothing."),
    )
    reboot = Nested(RebootBody)

    @validates_schema
    def _check_number(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if len(data) != 1:
            raise ValidationError("must hold exactly one action: os-start, os-stop or reboot", "body")

    @post_load
    def _make_action(self, data: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        how = data.get("reboot", {}).get("type", "")
        return _ACTIONS["".join(data), how.upper()]


_ACTIONS = {
    ("os_start", ""): {"action": PowerAction.START, "force": False},
    ("os_stop", ""): {"action": PowerAction.SHUTDOWN, "force": True},
    ("reboot", "SOFT"): {"action": PowerAction.RESTART, "force": False},
    ("reboot", "HARD"): {"action": PowerAction.RESET, "force": True},
}
"""Source: Nova API reference, server actions: a stop asks the guest first and pulls the plug after a time-out."""
