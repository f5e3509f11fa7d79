"""Before the editor's container starts, on the host: folders, .env and, where it isn't there, the image."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docker"))
from host import image

sys.exit(image.prepare_for_editor())
