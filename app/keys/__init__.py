"""API keys: how programs prove whose requests they send."""
