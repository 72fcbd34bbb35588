"""What a model costs and how good it is, measured on the exported files, each in a process of its own."""
