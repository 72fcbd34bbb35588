"""The stages of a run, one file each. Each takes a `Run` and returns what its `done.json` keeps."""
