"""One verb a file. A stage takes a config or a run, reads and writes folders, and never calls another stage."""
