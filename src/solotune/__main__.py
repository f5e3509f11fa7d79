"""python -m solotune"""

from solotune.cli import program

program()
