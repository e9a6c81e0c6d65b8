"""How each field of a v1 answer is spelt. What v1 takes in is in ``arguments``."""

from marshmallow import fields
from marshmallow.fields import Boolean, Float, Integer, List, Nested, String

from app.api.face import AnswerSchema, about
from app.core.records import CommandState, JobKind, JobState, VmStatus


class VmSchema(AnswerSchema):
    """A VM in a list."""

    vmid = Integer(required=True)
    vps_id = String(required=True, data_key="vpsId", metadata=about("Its id in v2."))
    name = String(required=True)
    node = String(required=True, metadata=about("The hypervisor host."))
    status = fields.Enum(VmStatus, by_value=String, required=True)
    running = Boolean(required=True, data_key="vmRunning", metadata=about("Whether a command can be tried."))


class AgentSchema(AnswerSchema):
    """The guest agent of a VM."""

    agent_available = Boolean(required=True, data_key="available")
    agent_message = String(required=True, data_key="message", metadata=about("Why it isn't available."))
    agent_version = String(required=True, allow_none=True, data_key="version")


class StatusSchema(AnswerSchema):
    """How a VM is. Figures that aren't known are null."""

    success = Boolean(required=True)
    vmid = Integer(required=True)
    name = String(required=True)
    node = String(required=True, metadata=about("The hypervisor host."))
    status = fields.Enum(VmStatus, by_value=String, required=True)
    running = Boolean(required=True, data_key="vmRunning", metadata=about("Whether a command can be tried."))
    last_pid = Integer(
        required=True,
        allow_none=True,
        data_key="pid",
        metadata=about("Guest pid of the VM's latest command: what GET agent/exec asks for."),
    )
    qemu_pid = Integer(
        required=True, allow_none=True, data_key="qemuPid", metadata=about("Process id of QEMU on the node.")
    )
    uptime_s = Integer(
        required=True, allow_none=True, data_key="uptime", metadata=about("Seconds since QEMU was started.")
    )
    cpus = Integer(required=True, allow_none=True, metadata=about("Virtual CPUs."))
    cpu = Float(required=True, allow_none=True, metadata=about("Share of the virtual CPUs in use, 0 to 1."))
    mem_bytes = Integer(
        required=True, allow_none=True, data_key="mem", metadata=about("Bytes of the node's memory in use.")
    )
    maxmem_bytes = Integer(
        required=True, allow_none=True, data_key="maxmem", metadata=about("Bytes of memory given to the guest.")
    )
    netin_bytes = Integer(required=True, allow_none=True, data_key="netin", metadata=about("Bytes received."))
    netout_bytes = Integer(required=True, allow_none=True, data_key="netout", metadata=about("Bytes sent."))
    diskread_bytes = Integer(required=True, allow_none=True, data_key="diskread", metadata=about("Bytes read."))
    diskwrite_bytes = Integer(required=True, allow_none=True, data_key="diskwrite", metadata=about("Bytes written."))
    agent = Nested(AgentSchema, required=True)


class ExecStartedSchema(AnswerSchema):
    """A command that has its pid. With `wait` in the body also all that its result has, as far as it is known."""

    success = Boolean(required=True, dump_default=True)
    pid = Integer(required=True, metadata=about("Its process id in the guest."))
    command = String(required=True)
    exited = Boolean(metadata=about("Whether nothing more will come. True for every end, whatever it was."))
    exit_code = Integer(
        data_key="exitcode",
        metadata=about(
            "Absent while the command runs; 128 + signal if a signal ended it; -1 if it has none of its own: see state."
        ),
    )
    signal = Integer(metadata=about("The signal that ended it; absent otherwise."))
    stdout = String()
    stderr = String()
    encoding = String(metadata=about("`base64` if that was asked for; absent otherwise."))
    out_truncated = Boolean(data_key="outTruncated", metadata=about("Present, and true, if stdout was cut."))
    err_truncated = Boolean(data_key="errTruncated", metadata=about("Present, and true, if stderr was cut."))
    available = Boolean(metadata=about("Whether the guest agent takes commands now."))
    running = Boolean(data_key="vmRunning", metadata=about("Whether the VM runs now."))
    state = fields.Enum(CommandState, by_value=String, metadata=about("How far the command has come, or how it ended."))
    message = String(required=True)


class ExecSchema(ExecStartedSchema):
    """The result of a command; without a pid in the query only `success`, `available`, `message` and `vmRunning`."""

    class Meta:
        """Whoever reads a result knows which command it is of."""

        exclude = ("command",)

    pid = Integer()
    available = Boolean(required=True, metadata=about("Whether the guest agent takes commands now."))
    running = Boolean(required=True, data_key="vmRunning", metadata=about("Whether the VM runs now."))


class KillSchema(AnswerSchema):
    """A command whose kill was asked for."""

    success = Boolean(required=True, dump_default=True)
    pid = Integer(required=True)
    exited = Boolean(required=True, metadata=about("Whether it has ended, by the kill or by itself before."))
    exit_code = Integer(data_key="exitcode", metadata=about("As the command's result has it."))
    signal = Integer(metadata=about("As the command's result has it."))
    state = fields.Enum(
        CommandState, by_value=String, required=True, metadata=about("`cancelled` if the kill ended it.")
    )
    message = String(required=True)


class PowerSchema(AnswerSchema):
    """A power action that was queued."""

    success = Boolean(required=True)
    action = String(required=True, metadata=about("What was asked for."))
    job_id = String(required=True, data_key="jobId", metadata=about("Poll GET /api/jobs/{jobId}."))
    message = String(required=True)
    estimated_time_s = Integer(required=True, data_key="estimated_time", metadata=about("A rough guess, in seconds."))


class JobProgressSchema(AnswerSchema):
    """How far a job has come."""

    percentage = Integer(required=True)
    message = String(required=True)
    current = Integer(required=True)
    total = Integer(required=True)


class JobMessageSchema(AnswerSchema):
    """What came out of a job."""

    message = String(required=True)


class JobResultSchema(AnswerSchema):
    """How a job ended."""

    success = Boolean(required=True)
    type = fields.Enum(JobKind, by_value=String, required=True)
    result = Nested(JobMessageSchema, required=True)
    timestamp = String(required=True, allow_none=True)


class JobSchema(AnswerSchema):
    """A job on its way."""

    job_id = String(required=True, data_key="jobId")
    queue_type = String(required=True, data_key="queueType")
    type = fields.Enum(JobKind, by_value=String, required=True)
    state = fields.Enum(JobState, by_value=String, required=True)
    status = fields.Enum(JobState, by_value=String, required=True)
    progress = Integer(required=True, metadata=about("0 to 100."))
    progress_text_key = String(required=True, data_key="progressTextKey")
    progress_details = Nested(JobProgressSchema, required=True, data_key="progressDetails")
    progress_message = String(required=True, data_key="progressMessage")
    message = String(required=True)
    result = Nested(JobResultSchema, required=True, allow_none=True)
    is_completed = Boolean(required=True, data_key="isCompleted")
    is_failed = Boolean(required=True, data_key="isFailed")
    is_running = Boolean(required=True, data_key="isRunning")
    is_waiting = Boolean(required=True, data_key="isWaiting")
    created_at = String(required=True, data_key="createdAt")
    finished_at = String(required=True, allow_none=True, data_key="finishedAt")
    job_name = String(required=True, data_key="jobName")
    vm_id = String(required=True, data_key="vmId")
    is_scheduled = Boolean(required=True, data_key="isScheduled")
    delay = Integer(required=True)
    status_key = String(required=True, data_key="statusKey")


class ErrorDetailSchema(AnswerSchema):
    """One thing that is wrong with a request."""

    field = String(required=True)
    message = String(required=True)


class RateLimitedSchema(AnswerSchema):
    """The error of who sends too much (429)."""

    error = String(required=True, metadata=about("The title of the HTTP status."))
    message = String(required=True, metadata=about("What is too much, for people."))
    retry_after = String(
        required=True, data_key="retryAfter", metadata=about("In how many seconds to try again.") | {"example": "12"}
    )
    request_id = fields.UUID(required=True, data_key="requestId")


class ErrorSchema(AnswerSchema):
    """An error."""

    error = String(required=True, metadata=about("The title of the HTTP status."))
    message = String(required=True, metadata=about("What is wrong, for people."))
    code = String(required=True, metadata=about("What is wrong, for programs.") | {"example": "BAD_REQUEST"})
    timestamp = String(required=True)
    request_id = fields.UUID(required=True, data_key="requestId")
    details = List(Nested(ErrorDetailSchema), metadata=about("The fields to blame; absent where there are none."))
