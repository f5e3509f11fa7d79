"""What the host does with Docker, for tasks.py: Python 3.10, and but for `flags` the standard library alone."""
