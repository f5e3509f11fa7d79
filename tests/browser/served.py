"""A server that knows what was asked of it, and texts that would do harm in a page."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ATTACKS = [
    "<script>document.title='pwned'</script>",
    '"><img src=/leak onerror="document.title=\'pwned\'">',
    "'></title></style><script src=/leak></script>",
    "<svg onload=\"document.title='pwned'\"><style>@import '/leak'</style></svg>",
    "</code><iframe srcdoc=\"<script>parent.document.title='pwned'</script>\"></iframe>",
    "<a href=\"javascript:document.title='pwned'\">x</a><form action=/leak><input autofocus onfocus=alert(1)>",
    "<meta http-equiv=refresh content='0;url=/leak'><base href=/leak><link rel=stylesheet href=/leak>",
    "\x1b]0;pwned\x07\x00\u202e\u2028 {{ 7*7 }} {% raw %} ${7*7} &lt;script&gt; ]]><!--",
]


class Served:
    """A folder on a port of this machine, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[str] = []
        paths = self.paths

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *_: object) -> None:
                paths.append(self.path)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
