"""The files that stages meet on: the only code that spells their names."""
