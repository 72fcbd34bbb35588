"""What is stored: the job's language, the tables, and the files."""
