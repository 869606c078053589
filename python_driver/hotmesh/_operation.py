"""The eager object that a durable call returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ._loop import WorkflowFuture, WorkflowLoop

__all__ = ["Operation"]

T = TypeVar("T")

if TYPE_CHECKING:  # so that type checkers let it into create_task

    class _Future(WorkflowFuture[T], Coroutine[Any, Any, T]):
        def send(self, value: Any) -> Any: ...
        def throw(self, *thrown: Any) -> Any: ...

else:
    _Future = WorkflowFuture


class Operation(_Future[T]):
    """A durable call that has been made: a future.

    It may be awaited any number of times, from any task, and be given to ``gather``, ``wait``,
    ``wait_for``, ``shield`` and ``ensure_future``, and, as if it were a coroutine, to
    ``create_task`` and ``TaskGroup.create_task`` (it is no coroutine: ``asyncio.wait`` refuses
    those). The call itself happens whether anybody awaits
    it or not, and a failure that nobody looks at is no warning.

    Cancelling it, or a task that awaits it, calls `on_cancel(operation)` once, unless it is done
    or the loop is closing. Awaiters get ``CancelledError`` at once; what the runtime resolves
    later is ignored.

    Attributes:
        sequence: number of the call in its dimension.
        kind: what is called, as the journal spells it.
        name: who is called.
    """

    __slots__ = ("_on_cancel", "kind", "name", "sequence")

    def __init__(
        self,
        loop: WorkflowLoop,
        sequence: int,
        kind: str,
        name: str,
        on_cancel: Callable[[Operation[Any]], object] | None = None,
    ) -> None:
        self._order = loop._next_order()
        asyncio.Future.__init__(self, loop=loop)
        self.sequence = sequence
        self.kind = kind
        self.name = name
        self._on_cancel = on_cancel

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<Operation {self.sequence} {self.kind} {self.name} {state}>"

    # --- what the runtime calls ------------------------------------------------------------------

    def resolve(self, value: T) -> bool:
        """Give the call its value; return False, and do nothing, when it was done before."""
        if self.done():
            return False
        self.set_result(value)
        return True

    def fail(self, error: BaseException) -> bool:
        """Make the call raise `error`; return False, and do nothing, when it was done before.

        A ``StopIteration``, which no coroutine can raise, arrives as the cause of a
        ``RuntimeError``.
        """
        if self.done():
            return False
        if isinstance(error, StopIteration):
            wrapped = RuntimeError("the operation failed with StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        self.set_exception(error)
        self._log_traceback = False
        return True

    # --- the future ------------------------------------------------------------------------------

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call; return whether it was still pending."""
        if not super().cancel(msg):
            return False
        hook = self._on_cancel
        if hook is not None and not self.get_loop().closing:  # type: ignore[attr-defined]
            hook(self)
        return True

    # --- for create_task --------------------------------------------------------------------------

    def as_coroutine(self) -> Coroutine[Any, Any, T]:
        """Return a coroutine that awaits the call."""
        return _Awaiting(self)

    def close(self) -> None:
        """Do nothing: the call has been made."""


class _Awaiting(Coroutine[Any, Any, T]):
    """What a task of an operation runs; it has no state, so that several tasks may run the same."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation[T]) -> None:
        self._operation = operation

    def __await__(self) -> Any:
        return self._operation.__await__()

    def send(self, value: Any) -> Any:
        """Yield the future itself while it is pending, then return its result."""
        operation = self._operation
        if operation.done():
            raise StopIteration(operation.result())
        operation._asyncio_future_blocking = True
        return operation

    def throw(
        self,
        typ: BaseException | type[BaseException],
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """Raise what is thrown; a cancellation also cancels the call.

        A task that is cancelled before its first step throws without ever having awaited.
        """
        error = typ if isinstance(typ, BaseException) else val
        if not isinstance(error, BaseException):
            assert isinstance(typ, type)
            error = typ() if error is None else typ(error)
        if isinstance(error, asyncio.CancelledError):
            self._operation.cancel(*error.args[:1])
        raise error if tb is None else error.with_traceback(tb)

    def close(self) -> None:
        """Do nothing: the call has been made."""
