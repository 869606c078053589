"""The calls of signals and orders: what is told or asked of a job from outside."""

from __future__ import annotations

from ._calls import Call, _nothing

__all__ = ["hook_start", "job_cancel", "job_interrupt", "job_signal", "signal_send"]


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
