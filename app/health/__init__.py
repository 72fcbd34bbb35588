"""Health: is the process alive, can it serve."""
