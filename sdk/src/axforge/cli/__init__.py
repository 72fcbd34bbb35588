"""The `axforge` command."""
