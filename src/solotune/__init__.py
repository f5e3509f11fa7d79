"""Fine-tune an instruction LLM on one GPU."""

__version__ = "0.1.0"
