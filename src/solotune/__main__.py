"""python -m solotune"""

from solotune.cli import main

raise SystemExit(main())
