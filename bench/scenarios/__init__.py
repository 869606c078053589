"""How each scenario of `scenarios.json` is measured; the sizes are in that file."""
