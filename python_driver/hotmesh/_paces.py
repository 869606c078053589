"""How long a worker waits for what, in seconds, and how much it says at once."""

from __future__ import annotations

__all__ = [
    "DENIED_SECONDS",
    "DOUBT_SECONDS",
    "MISFIT_SECONDS",
    "NEWS_LISTENING_SECONDS",
    "NEWS_SECONDS",
    "PATIENCE_SECONDS",
    "PAUSE_SECONDS",
    "POLL_LISTENING_SECONDS",
    "POLL_SECONDS",
    "REPORT_BYTES",
    "SEEN_SECONDS",
    "SHORTLY_SECONDS",
    "STOPPING_SECONDS",
    "SWEEP_SECONDS",
]

POLL_SECONDS = 1.0
"""How often an idle worker looks for work when notifications do not arrive."""

POLL_LISTENING_SECONDS = 2.0
"""The same when they do: then polling only mends what a lost notification broke."""

PAUSE_SECONDS = 0.05
"""How long a worker waits for what it has just begun, before it looks for other work."""

SHORTLY_SECONDS = 0.02
"""When a worker that has become idle looks for the last time before it sleeps."""

SWEEP_SECONDS = 0.02
"""How often a worker that turns all the time does the engine's chores, and wakes others."""

SEEN_SECONDS = 5.0
"""How often a busy worker says that it is alive."""

NEWS_SECONDS = 0.1
"""How often a run that is busy with an inline activity asks for news."""

NEWS_LISTENING_SECONDS = 0.25
"""The same when notifications arrive, which tell of news too."""

REPORT_BYTES = 8_000_000
"""A batch of reports ends here."""

STOPPING_SECONDS = 2.0
"""How long a worker that is told to stop waits for a database that is away."""

PATIENCE_SECONDS = 0.05
"""How long a report for a locked job is tried again before it is left in the job's inbox."""

MISFIT_SECONDS = 3.0
"""How long a worker bears an engine that lacks what it calls, as one does that is being upgraded."""

DOUBT_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""After an answer was lost: the pauses between the times that a worker tells what it holds."""

DENIED_SECONDS = 60.0
"""How often, in the end, a worker whose key was revoked asks whether it has one again."""
