"""Measurements of HotMesh next to the floor; `run.py` is the entry."""
