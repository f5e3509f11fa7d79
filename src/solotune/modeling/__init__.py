"""The only home of torch, transformers, peft, trl and bitsandbytes."""
