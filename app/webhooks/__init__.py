"""Webhooks: addresses of users that are told of events."""
