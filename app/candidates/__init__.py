"""Candidates: what the search measured."""
