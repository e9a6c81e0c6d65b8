"""The web half's way to a node: an RQ job on the node's queue, written together with the record it is about.

Knows RQ and transactions. Doesn't know commands, power jobs or HTTP, and never talks to a node or a guest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from app.core.errors import NodeUnavailableError
from app.core.queues import queue_name
from app.core.store import Call, tell_absence
from app.inventory import VmView

RQ_RESULT_TTL_S = 0
"""The records hold every result; of what went well RQ keeps the count only."""
RQ_FAILURE_TTL_S = 24 * 3600


@dataclass(frozen=True)
class Dispatch:
    """Hands work to the workers of nodes.

    Attributes:
        client: Redis, for RQ.
        intent: Makes what is to be written with all work, whatever it is: on whose behalf it is done.
    """

    client: redis.Redis
    intent: Callable[[], Sequence[Call[bool]]] = tuple
    _queues: dict[str, Queue] = field(default_factory=dict, init=False, repr=False)

    def put(
        self,
        node: str,
        job_name: str,
        args: tuple[str | int, ...],
        *,
        timeout_s: int,
        together_with: Sequence[Call[bool]] = (),
    ) -> list[bool]:
        """Put an RQ job on a node's queue, in one transaction and one round trip with store calls.

        Args:
            node: The node whose worker is to take it.
            job_name: One of ``app.core.queues``.
            args: Ids, never payloads.
            timeout_s: When RQ may consider the job stuck; the worker's own deadlines are shorter.
            together_with: What is written with it, or not at all.

        Returns:
            What the store calls told.

        Raises:
            StoreRefusedError: Redis takes nothing; nothing is written.
            StoreUnavailableError: Redis is away; whether it took the transaction isn't known.
        """
        try:
            with self.client.pipeline(transaction=True) as pipe:
                pipe.multi()  # before the first command: RQ would open the transaction only after it
                for call in (*together_with, *self.intent()):
                    pipe.execute_command(*call.args)  # type: ignore[no-untyped-call]
                self._queue(node).enqueue_call(
                    job_name,
                    args=args,
                    description=job_name.rpartition(".")[2],
                    timeout=timeout_s,
                    result_ttl=RQ_RESULT_TTL_S,
                    failure_ttl=RQ_FAILURE_TTL_S,
                    pipeline=pipe,
                )
                replies = pipe.execute()
        except redis.RedisError as exc:
            tell_absence(exc)
        return [call.load(reply) for call, reply in zip(together_with, replies, strict=False)]  # others follow

    def _queue(self, node: str) -> Queue:
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = Queue(queue_name(node), connection=self.client, serializer=JSONSerializer)
        return queue


def insist_on_node(view: VmView) -> None:
    """Insist that a worker listens on the VM's node.

    Raises:
        NodeUnavailableError: None does.
    """
    if not view.node_alive:
        raise NodeUnavailableError(view.vm.node)
