"""What the host does with Docker, for tasks.py: the standard library alone, and Python 3.10."""
