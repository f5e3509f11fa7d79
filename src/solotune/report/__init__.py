"""Pages about runs: report.html of one, index.html of all. Reads what the stages wrote, and needs no torch."""
