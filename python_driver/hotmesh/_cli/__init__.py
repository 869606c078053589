"""The parts of the command line tool: what it shows, and what `hotmesh worker` serves."""

from __future__ import annotations
