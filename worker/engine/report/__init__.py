"""The report of a job: `report.json`, and `report.html`, which shows it to people."""
