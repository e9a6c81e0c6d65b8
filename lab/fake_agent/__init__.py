"""A guest agent without a guest: for tests and fleets that need many agents, or one that misbehaves on demand.

It plays both ends that a client of a guest agent meets: the socket of QEMU's virtio-serial port (`chardev`) and qemu-ga
behind it (`rpcs`, with `processes` and `files`). An honest one answers as qemu-ga 7.2 does; the tests run the same
questions over the real one. What else an agent may do to its client stands in `misbehaviour`, one name for each.

    async with FakeAgent(path, behaviour=Script({"guest-exec": First(1, Mute())})) as agent:
        ...  # the client loses the reply to its first guest-exec
        assert agent.received("guest-exec") == 1

It knows nothing of OwnUp: neither its client, nor its records.
"""

from lab.fake_agent.agent import FakeAgent

__all__ = ["FakeAgent"]
