"""What runs several stages, each in a process of its own: pipeline, verify, reproduce."""
