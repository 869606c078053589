"""Durable workflows that are only Postgres: the thin driver of the engine in the database."""

from __future__ import annotations

from . import activity, embedded, errors, testing, workflow
from ._logger import set_level as _set_level
from .client import Client, SyncClient
from .entity import Entity, SyncEntity
from .errors import HotMeshError
from .hotmesh import HotMesh, SyncHotMesh
from .memflow import MemFlow
from .worker import Worker, register_activity_worker

__version__ = "0.1.0"

_set_level()

__all__ = [
    "Client",
    "Entity",
    "HotMesh",
    "HotMeshError",
    "MemFlow",
    "SyncClient",
    "SyncEntity",
    "SyncHotMesh",
    "Worker",
    "__version__",
    "activity",
    "embedded",
    "errors",
    "register_activity_worker",
    "testing",
    "workflow",
]
