"""Capabilities: what this service can do."""
