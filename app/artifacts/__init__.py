"""Artifacts: the files that a job delivers."""
