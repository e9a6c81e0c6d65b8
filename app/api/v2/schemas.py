"""How v2 spells what many of its answers have: operations, problems, gates. What v2 takes in is in ``arguments``."""

from enum import StrEnum

from marshmallow import fields
from marshmallow.fields import Boolean, Dict, Integer, List, Nested, String

from app.api.face import AnswerSchema, about
from app.core.records import JobState


class OperationStatus(StrEnum):
    """How far an operation has come, in HostUp v2's words."""

    PENDING = "pending"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


OPERATION_STATUSES = {
    JobState.QUEUED: OperationStatus.QUEUED,
    JobState.RUNNING: OperationStatus.IN_PROGRESS,
    JobState.COMPLETED: OperationStatus.COMPLETED,
    JobState.FAILED: OperationStatus.FAILED,
}


class OperationStateSchema(AnswerSchema):
    """Work that has been accepted and takes a while."""

    status = fields.Enum(OperationStatus, by_value=String, required=True)
    job_id = String(required=True, data_key="jobId")
    poll_url = String(
        required=True, allow_none=True, data_key="pollUrl", metadata=about("GET it to learn how far the work has come.")
    )
    result = Dict(keys=String(), allow_none=True, metadata=about("Null as long as there is none."))


class OperationSchema(AnswerSchema):
    """The answer to what takes a while (202)."""

    operation = Nested(OperationStateSchema, required=True)


class GateSchema(AnswerSchema):
    """Whether something can be done now."""

    allowed = Boolean(required=True)
    reason = String(required=True, allow_none=True, metadata=about("Why not, for people."))
    code = String(allow_none=True, metadata=about("Why not, for programs."))


class ProblemEntrySchema(AnswerSchema):
    """One thing that is wrong with a request."""

    pointer = String(required=True, metadata=about("JSON pointer to the field; parameters are named the same way."))
    detail = String(required=True)
    code = String(required=True, metadata=about("`missing_required`, `unknown_field` or `invalid_value`."))


class ProblemSchema(AnswerSchema):
    """An error: a problem document (RFC 7807)."""

    type = String(required=True, metadata=about("The page that explains the code."))
    title = String(required=True)
    status = Integer(required=True)
    detail = String(required=True, metadata=about("What is wrong, for people."))
    code = String(required=True, metadata=about("What is wrong, for programs.") | {"example": "vps_not_found"})
    instance = String(required=True, metadata=about("The path of the request."))
    request_id = String(required=True, data_key="requestId")
    timestamp = String(required=True)
    errors = List(Nested(ProblemEntrySchema), metadata=about("Only with `invalid_request`: the fields to blame."))
    actions = Dict(
        keys=String(), values=Nested(GateSchema), metadata=about("The closed gate, where that is what is wrong.")
    )


class PowerGatesSchema(AnswerSchema):
    """What can be done to a VPS now."""

    can_start = Nested(GateSchema, required=True, data_key="canStart")
    can_stop = Nested(GateSchema, required=True, data_key="canStop")
    can_shutdown = Nested(GateSchema, required=True, data_key="canShutdown")
    can_restart = Nested(GateSchema, required=True, data_key="canRestart")
    can_reset = Nested(GateSchema, required=True, data_key="canReset")


class HostnameGatesSchema(AnswerSchema):
    """What can be done to a hostname now."""

    can_change = Nested(GateSchema, required=True, data_key="canChange")


class HostnameRulesSchema(AnswerSchema):
    """What a hostname must look like."""

    max_length_chars = Integer(required=True, data_key="maxLengthChars")
    pattern = String(required=True)
    pattern_description = String(required=True, data_key="patternDescription")


class HostnameSchema(AnswerSchema):
    """The hostname of a VPS."""

    hostname = String(required=True, allow_none=True, metadata=about("As the guest tells it; null if it doesn't."))
    reload_recommended = Boolean(required=True, data_key="reloadRecommended")
    account_inactive = Boolean(required=True, data_key="accountInactive")
    account_status = String(required=True, allow_none=True, data_key="accountStatus")
    cache_cleared = Boolean(required=True, data_key="cacheCleared")
    actions = Nested(HostnameGatesSchema, required=True)
    validation_rules = Nested(HostnameRulesSchema, required=True, data_key="validationRules")
