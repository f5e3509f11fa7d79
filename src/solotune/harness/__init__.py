"""One way to measure: base, adapter, merged model and GGUF, on the same rows, template and code."""
