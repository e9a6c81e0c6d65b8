"""How each field of this face's answers is spelt. What it takes in is in ``arguments``."""

from typing import Any

from marshmallow import fields
from marshmallow.fields import Boolean, Integer, List, Nested, String

from app.api.face import AnswerSchema, about

ERROR: dict[str, Any] = {
    "type": "object",
    "description": "One member, named for the fault: `itemNotFound`, `conflictingRequest` … or, of Keystone, `error`.",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "integer", "description": "The HTTP status."},
            "message": {"type": "string"},
            "title": {"type": "string", "description": "Of Keystone: the title of the HTTP status."},
            "details": {"type": "string", "description": "Of Nova: why, where the message doesn't say it."},
            "retryAfter": {"type": "string", "description": "Of Nova, with 429: in how many seconds to try again."},
        },
        "additionalProperties": False,
    },
    "example": {"itemNotFound": {"code": 404, "message": "VM not found"}},
}


class LinkSchema(AnswerSchema):
    """An address."""

    rel = String(required=True)
    href = String(required=True)


class MediaTypeSchema(AnswerSchema):
    """What a version's bodies are."""

    base = String(required=True)
    type = String(required=True)


class VersionSchema(AnswerSchema):
    """A version of an API."""

    id = String(required=True)
    status = String(required=True)
    version = String(metadata=about("Nova: the highest microversion."))
    min_version = String(metadata=about("Nova: the lowest microversion."))
    links = List(Nested(LinkSchema), required=True)
    media_types = List(Nested(MediaTypeSchema), required=True, data_key="media-types")


class VersionAnswer(AnswerSchema):
    """One version."""

    version = Nested(VersionSchema, required=True)


class VersionValuesSchema(AnswerSchema):
    """Versions, as Keystone lists them."""

    values = List(Nested(VersionSchema), required=True)


class VersionsAnswer(AnswerSchema):
    """All versions there are."""

    versions = Nested(VersionValuesSchema, required=True)


class NamedSchema(AnswerSchema):
    """A thing with an id and a name."""

    id = String(required=True)
    name = String(required=True)


class OwnedSchema(NamedSchema):
    """A user or a project, with its domain; there is one domain."""

    domain = Nested(NamedSchema, required=True)


class EndpointSchema(AnswerSchema):
    """Where a service can be reached."""

    id = String(required=True)
    interface = String(required=True)
    region = String(required=True)
    region_id = String(required=True)
    url = String(required=True)


class ServiceSchema(NamedSchema):
    """A service of the catalog."""

    type = String(required=True)
    endpoints = List(Nested(EndpointSchema), required=True)


class TokenSchema(AnswerSchema):
    """What a token stands for."""

    methods = List(String(), required=True)
    user = Nested(OwnedSchema, required=True, metadata=about("The API key."))
    project = Nested(OwnedSchema, required=True, metadata=about("The key's account."))
    is_domain = Boolean(required=True)
    roles = List(
        Nested(NamedSchema),
        required=True,
        metadata=about("The key's scopes: `reader` is read:vm, `member` is power:vm, `guest_exec` is write:vm."),
    )
    audit_ids = List(String(), required=True)
    issued_at = String(required=True)
    expires_at = String(required=True)
    catalog = List(Nested(ServiceSchema), required=True)


class TokenAnswer(AnswerSchema):
    """A token's meaning; the token itself is in `X-Subject-Token`."""

    token = Nested(TokenSchema, required=True)


class ServerSummarySchema(NamedSchema):
    """A server in a short list."""

    links = List(Nested(LinkSchema), required=True)


class FlavorReferenceSchema(AnswerSchema):
    """The flavor of a server; empty where its size isn't known."""

    id = String()
    links = List(Nested(LinkSchema))


class ServerSchema(ServerSummarySchema):
    """A server."""

    status = String(required=True, metadata=about("`ACTIVE`, `SHUTOFF`, `REBOOT`, `HARD_REBOOT`, `PAUSED` …"))
    vm_state = String(required=True, allow_none=True, data_key="OS-EXT-STS:vm_state")
    task_state = String(
        required=True, allow_none=True, data_key="OS-EXT-STS:task_state", metadata=about("What is being done to it.")
    )
    power_state = Integer(
        required=True,
        data_key="OS-EXT-STS:power_state",
        metadata=about("0 not known, 1 running, 3 paused, 4 off."),
    )
    account = String(required=True, data_key="tenant_id")
    user_id = String(required=True, allow_none=True, metadata=about("Always null: not known."))
    flavor = Nested(FlavorReferenceSchema, required=True)
    image = String(required=True, metadata=about("Always empty: not known."))
    addresses = fields.Dict(
        keys=String(), values=List(fields.Dict()), required=True, metadata=about("Always empty: not known.")
    )
    metadata = fields.Dict(keys=String(), values=String(), required=True, metadata=about("Always empty."))
    created = String(required=True, allow_none=True, metadata=about("Always null: not known."))
    updated = String(required=True, metadata=about("When its node last looked at it."))
    launched_at = String(
        required=True, allow_none=True, data_key="OS-SRV-USG:launched_at", metadata=about("When its QEMU was started.")
    )
    node = String(required=True, data_key="OS-EXT-SRV-ATTR:hypervisor_hostname", metadata=about("The hypervisor host."))
    vmid = String(
        required=True, data_key="OS-EXT-SRV-ATTR:instance_name", metadata=about("Its `vmid` in the other APIs.")
    )


class ServersAnswer(AnswerSchema):
    """Servers, in short."""

    servers = List(Nested(ServerSummarySchema), required=True)
    servers_links = List(Nested(LinkSchema), metadata=about("Where the next page is; absent on the last one."))


class ServersDetailAnswer(ServersAnswer):
    """Servers, in full."""

    servers = List(Nested(ServerSchema), required=True)


class ServerAnswer(AnswerSchema):
    """A server, in full."""

    server = Nested(ServerSchema, required=True)


class FlavorSummarySchema(NamedSchema):
    """A flavor in a short list."""

    links = List(Nested(LinkSchema), required=True)


class FlavorSchema(FlavorSummarySchema):
    """A size that servers of the account have."""

    vcpus = Integer(required=True)
    ram_mib = Integer(required=True, data_key="ram", metadata=about("Memory in MiB."))
    disk = Integer(required=True, allow_none=True, metadata=about("Always null: not known."))
    is_public = Boolean(required=True, data_key="os-flavor-access:is_public")


class FlavorsAnswer(AnswerSchema):
    """Flavors, in short."""

    flavors = List(Nested(FlavorSummarySchema), required=True)
    flavors_links = List(Nested(LinkSchema), metadata=about("Where the next page is; absent on the last one."))


class FlavorsDetailAnswer(FlavorsAnswer):
    """Flavors, in full."""

    flavors = List(Nested(FlavorSchema), required=True)


class FlavorAnswer(AnswerSchema):
    """A flavor, in full."""

    flavor = Nested(FlavorSchema, required=True)


class ExtraSpecsAnswer(AnswerSchema):
    """What else there is to say of a flavor."""

    extra_specs = fields.Dict(keys=String(), values=String(), required=True, metadata=about("Always empty."))
