"""Put the engine's scripts into the wheel as `hotmesh/_sql`; a checkout reads them where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EngineScripts(BuildHookInterface[Any]):
    """From the repository, or, in an unpacked source distribution, from the copy made there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called once for each artefact."""
        repository = Path(self.root).parent
        if version == "editable" or not (repository / "hotmesh.control").exists():
            return
        scripts = [*(repository / "extension").glob("*.sql"), repository / "hotmesh.control"]
        for script in scripts:
            build_data["force_include"][str(script)] = f"hotmesh/_sql/{script.name}"
