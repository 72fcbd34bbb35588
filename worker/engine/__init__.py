"""The engine: pure PyTorch. Knows no database, no queue and no HTTP."""
