"""llama.cpp's own server on a GGUF file, asked what it makes of chats.

It reads {"path", "chats"} as JSON from its input, and the last line that it writes is a list with
{"prompt", "tokens"} or {"error"} for each chat. The server listens on 127.0.0.1 with a key of its own, while this runs.
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
from typing import Any
from urllib.parse import urlsplit

import xllamacpp


def main() -> None:
    asked = json.load(sys.stdin)
    key = secrets.token_hex(16)
    server = _server(asked["path"], key)
    address = urlsplit(server.listening_address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    found = [_served(connection, key, chat) for chat in asked["chats"]]
    connection.close()
    print(json.dumps(found), flush=True)


def _server(path: str, key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.ui = 256, 1, False, False
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    return xllamacpp.Server(params)


def _served(connection: http.client.HTTPConnection, key: str, chat: list[dict[str, str]]) -> dict[str, Any]:
    rendered = _post(connection, key, "/apply-template", {"messages": chat})
    if "error" in rendered:
        return {"error": rendered["error"]["message"]}
    text = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
    return {"prompt": rendered["prompt"], "tokens": _post(connection, key, "/tokenize", text)["tokens"]}


def _post(connection: http.client.HTTPConnection, key: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


if __name__ == "__main__":
    main()
