"""The threads of a web process: a request is given to the one that became idle last, and no other one wakes for it.

``ThreadPoolExecutor`` lets all idle threads wait at one queue: each request wakes one of them, which wakes the next as
it leaves, for nothing. In turns of the interpreter's lock that takes as long as the answer to a small request.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_Work = Callable[[], None]


class _IdleThread:
    """A thread that waits for its next work."""

    def __init__(self) -> None:
        self._work: _Work | None = None
        self._has_work = threading.Lock()
        self._has_work.acquire()

    def give(self, work: _Work | None) -> None:
        """Wake it to do some work; ``None``: to end."""
        self._work = work
        self._has_work.release()

    def await_work(self) -> _Work | None:
        """Wait until it is given work; without a deadline: the pool wakes it when it closes."""
        self._has_work.acquire()
        return self._work


def _start(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="request").start()


class RequestThreads(Executor):
    """Runs calls in threads, which are made when they are needed and stay."""

    def __init__(self, most: int, *, start: Callable[[Callable[[], None]], None] = _start) -> None:
        """Have no thread yet.

        Args:
            most: How many threads there are at most; what comes while all are busy waits in the order it came.
            start: Lets a new thread make a call, or raises ``RuntimeError`` where the system gives no more threads.
        """
        self._most = most
        self._start = start
        self._lock = threading.Lock()  # guards all that follows
        self._idle: list[_IdleThread] = []
        self._waiting: deque[_Work] = deque()
        self._count = 0
        self._is_closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a call run.

        Raises:
            RuntimeError: The pool is closed, or the system doesn't give it a single thread.
        """
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                _settle(future, fn, args, kwargs)

        with self._lock:
            if self._is_closed:
                raise RuntimeError("The pool is closed")
            if not self._idle:
                self._find_thread(work)
                return future
            idle = self._idle.pop()
        idle.give(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """Let idle threads end now and the others when all that waits is done; they are not waited for."""
        del wait, cancel_futures
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.give(None)

    def _find_thread(self, work: _Work) -> None:
        """Find a thread for some work while none is idle: a new one, or the one that is ready first.

        Raises:
            RuntimeError: There is none at all, and the system gives none.
        """
        if self._count < self._most:
            try:
                self._start(partial(self._serve, work))
            except RuntimeError:
                if not self._count:
                    raise
            else:
                self._count += 1
                return
        self._waiting.append(work)

    def _serve(self, first: _Work) -> None:
        """Do one piece of work after the other: what a thread does."""
        idle = _IdleThread()
        work: _Work | None = first
        while work is not None:
            work()
            work = self._next(idle)

    def _next(self, idle: _IdleThread) -> _Work | None:
        """Find the next work of a thread, or wait for it."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._is_closed:
                return None
            self._idle.append(idle)
        return idle.await_work()


def _settle(future: Future[T], fn: Callable[..., T], args: Any, kwargs: Any) -> None:
    try:
        result = fn(*args, **kwargs)
    except BaseException as exc:  # noqa: BLE001 - whoever waits for the call gets it
        future.set_exception(exc)
    else:
        future.set_result(result)
