"""Runs a solotune command on a GPU with less memory than it has: `capped.py GIB COMMAND …`.

A large card so answers for a 24 GB one as far as memory goes; its speed remains its own.
"""

import sys

from solotune.environment import prepare_process

if __name__ == "__main__":
    prepare_process(device="cuda")
    import torch

    from solotune.cli import main

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(float(sys.argv[1]) * 2**30 / total)
    raise SystemExit(main(sys.argv[2:]))
