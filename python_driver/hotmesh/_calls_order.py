"""The calls of signals and orders: what is told or asked of a job from outside."""

from __future__ import annotations

from typing import Any

from ._calls import Call, _nothing, _one

__all__ = [
    "hook_start",
    "job_cancel",
    "job_interrupt",
    "job_signal",
    "query_answer",
    "query_ask",
    "query_result",
    "signal_send",
    "update_result",
    "update_send",
]


def job_signal(app: str, key: str, signal: str, data: str) -> Call[None]:
    """Send a signal to one job; `data` is a JSON text."""
    return Call(
        "select job_signal from hotmesh.job_signal(app => %(app)s::text, key => %(key)s::text, "
        "signal => %(signal)s::text, data => %(data)s::jsonb)",
        {"app": app, "key": key, "signal": signal, "data": data},
        _nothing,
        job_id=key,
    )


def signal_send(app: str, signal: str, data: str) -> Call[None]:
    """Send a signal by name; `data` is a JSON text."""
    return Call(
        "select signal_send from hotmesh.signal_send(app => %(app)s::text, "
        "signal => %(signal)s::text, data => %(data)s::jsonb)",
        {"app": app, "signal": signal, "data": data},
        _nothing,
    )


def job_cancel(app: str, key: str) -> Call[None]:
    """Ask a job to stop."""
    return Call(
        "select job_cancel from hotmesh.job_cancel(app => %(app)s::text, key => %(key)s::text)",
        {"app": app, "key": key},
        _nothing,
        job_id=key,
    )


def job_interrupt(
    app: str, key: str, reason: str | None, code: int, descend: bool, throw: bool
) -> Call[None]:
    """End a job at once."""
    return Call(
        "select job_interrupt from hotmesh.job_interrupt(app => %(app)s::text, "
        "key => %(key)s::text, reason => %(reason)s::text, code => %(code)s::integer, "
        "descend => %(descend)s::boolean, throw => %(throw)s::boolean)",
        {
            "app": app,
            "key": key,
            "reason": reason,
            "code": code,
            "descend": descend,
            "throw": throw,
        },
        _nothing,
        job_id=key,
    )


def hook_start(
    app: str, key: str, workflow: str, args: str, queue: str | None, options: str
) -> Call[None]:
    """Run a function in a job; `args` and `options` are JSON texts."""
    return Call(
        "select hook_start from hotmesh.hook_start(app => %(app)s::text, key => %(key)s::text, "
        "workflow => %(workflow)s::text, args => %(args)s::jsonb, queue => %(queue)s::text, "
        "options => %(options)s::jsonb)",
        {
            "app": app,
            "key": key,
            "workflow": workflow,
            "args": args,
            "queue": queue,
            "options": options,
        },
        _nothing,
        job_id=key,
    )


def query_ask(app: str, key: str, name: str, args: str) -> Call[int]:
    """Ask the code of a job; the answer is the number of the question."""
    return Call(
        "select query_ask from hotmesh.query_ask(app => %(app)s::text, key => %(key)s::text, "
        "name => %(name)s::text, args => %(args)s::jsonb)",
        {"app": app, "key": key, "name": name, "args": args},
        _one,
        repeat=True,
        job_id=key,
    )


def query_answer(app: str, id: int, answer: str) -> Call[None]:
    """What the code says; `answer` is a JSON text."""
    return Call(
        "select query_answer from hotmesh.query_answer(app => %(app)s::text, "
        "id => %(id)s::bigint, answer => %(answer)s::jsonb)",
        {"app": app, "id": id, "answer": answer},
        _nothing,
        repeat=True,
    )


def query_result(app: str, id: int) -> Call[Any]:
    """The answer to a question, or None."""
    return Call(
        "select query_result from hotmesh.query_result(app => %(app)s::text, id => %(id)s::bigint)",
        {"app": app, "id": id},
        _one,
    )


def update_send(app: str, key: str, name: str, args: str, id: str) -> Call[str]:
    """Ask the code of a job for a change; the same id again asks for nothing more."""
    return Call(
        "select update_send from hotmesh.update_send(app => %(app)s::text, key => %(key)s::text, "
        "name => %(name)s::text, args => %(args)s::jsonb, id => %(id)s::text)",
        {"app": app, "key": key, "name": name, "args": args, "id": id},
        _one,
        repeat=True,
        job_id=key,
    )


def update_result(app: str, key: str, id: str) -> Call[Any]:
    """What an update answered, or None."""
    return Call(
        "select update_result from hotmesh.update_result("
        "app => %(app)s::text, key => %(key)s::text, id => %(id)s::text)",
        {"app": app, "key": key, "id": id},
        _one,
        repeat=True,
        job_id=key,
    )
