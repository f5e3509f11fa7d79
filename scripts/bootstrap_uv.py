#!/usr/bin/env python3
"""Brings uv to a machine that has only Python, and prints where it lies.

docker/uv.txt fixes the version and the sha256 of each wheel that may be used; what was downloaded is
compared with it before anything is unpacked. Only the standard library is needed. Nothing is fetched when
`.venv-tools/` already has that version.

The index is UV_DEFAULT_INDEX, else PIP_INDEX_URL, else PyPI. HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE are
honoured.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import platform
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parent.parent
PIN_FILE = ROOT / "docker" / "uv.txt"
TOOLS_DIR = ROOT / ".venv-tools"

MACHINES = ("x86_64", "aarch64")  # those whose hash is in docker/uv.txt
SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
TIMEOUT_SECONDS = 60


class BootstrapError(Exception):
    """Something that the person at the keyboard can act on; printed as one line."""


def main() -> int:
    try:
        print(bring_uv(PIN_FILE, TOOLS_DIR, os.environ))
    except BootstrapError as error:
        print(f"bootstrap_uv: {error}", file=sys.stderr)
        return 1
    return 0


def bring_uv(pin_file: Path, tools_dir: Path, environ: Mapping[str, str]) -> Path:
    """Makes sure that the pinned uv is in `tools_dir` and returns its path."""
    version, hashes = read_pin(pin_file)
    binary = tools_dir / f"uv-{version}" / "uv"
    if is_uv(binary, version):
        return binary
    machine = require_platform(sys.platform, platform.machine(), has_glibc())
    index = Index(environ.get("UV_DEFAULT_INDEX") or environ.get("PIP_INDEX_URL") or "https://pypi.org/simple")
    name, address = index.find_wheel(version, machine, hashes)
    print(f"bootstrap_uv: downloading {name} (18 MB) from {urlsplit(address).hostname}", file=sys.stderr)
    wheel = index.get(address)[0]
    require_hash(name, wheel, hashes, pin_file)
    install(wheel, binary)
    if not is_uv(binary, version):
        raise BootstrapError(f"{binary} does not run: is the checkout on a file system mounted with `noexec`?")
    return binary


def read_pin(pin_file: Path) -> tuple[str, set[str]]:
    """Reads version and sha256 values from the pip requirements file."""
    text = re.sub(r"^\s*#.*$", "", pin_file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    version = re.search(r"^uv==([0-9][0-9a-z.]*)", text, flags=re.MULTILINE)
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text))
    if version is None or not hashes:
        raise BootstrapError(f"{pin_file} has no line `uv==VERSION --hash=sha256:…`")
    return version.group(1), hashes


def is_uv(binary: Path, version: str) -> bool:
    """Whether `binary` runs and says that it is uv of that version."""
    try:
        answer = subprocess.run(
            [binary, "--version"], check=False, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.split()[:2] == ["uv", version]


def has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):  # not a glibc: musl, macOS, Windows
        return False


def require_platform(system: str, machine: str, glibc: bool) -> str:
    if system != "linux" or machine not in MACHINES or not glibc:
        libc = "" if glibc or system != "linux" else " without glibc"
        raise BootstrapError(
            f"no uv wheel is pinned for {system} {machine}{libc}: docker/uv.txt has Linux with glibc on "
            f"{' and '.join(MACHINES)}. Use x86-64 or aarch64 Linux with glibc."
        )
    return machine


class Index:
    """A package index that speaks the JSON form of the simple API (PEP 691)."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(re.sub(r"^[A-Za-z0-9._-]+=", "", address))  # uv allows NAME=ADDRESS
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BootstrapError("UV_DEFAULT_INDEX (or PIP_INDEX_URL) is not an http(s) address")
        self.host = parts.netloc.rpartition("@")[2]
        self.address = urlunsplit((parts.scheme, self.host, parts.path.rstrip("/"), "", ""))
        self.authorization = ""
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.authorization = "Basic " + base64.b64encode(login.encode()).decode()

    def find_wheel(self, version: str, machine: str, hashes: set[str]) -> tuple[str, str]:
        """File name and address of the wheel for this machine."""
        body, address = self.get(f"{self.address}/uv/", accept=SIMPLE_JSON)
        try:
            files = json.loads(body)["files"]
        except (ValueError, KeyError, TypeError):
            raise BootstrapError(
                f"{self.address} does not speak the JSON simple API (PEP 691): "
                "set UV_DEFAULT_INDEX to an index that does"
            ) from None
        wheels = [
            file
            for file in files
            if file["filename"].startswith(f"uv-{version}-py3-none-manylinux")
            and file["filename"].endswith(f"_{machine}.whl")
        ]
        if not wheels:
            raise BootstrapError(f"{self.address} has no uv {version} for Linux {machine}")
        wheels.sort(key=lambda file: file.get("hashes", {}).get("sha256") not in hashes)  # a pinned one first
        return wheels[0]["filename"], urljoin(address, wheels[0]["url"])

    def get(self, address: str, accept: str = "*/*") -> tuple[bytes, str]:
        """The body, and the address that it came from in the end."""
        if urlsplit(address).scheme not in ("http", "https"):
            raise BootstrapError(f"{self.address} gives an address that is not http(s): {address}")
        request = urllib.request.Request(address, headers={"Accept": accept})  # noqa: S310  checked above
        if self.authorization and urlsplit(address).netloc == self.host:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                return response.read(), response.geturl()
        except urllib.error.HTTPError as error:
            with error:
                raise BootstrapError(f"{address} answered {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise BootstrapError(explain_network(address, error)) from None


def explain_network(address: str, error: Exception) -> str:
    reason = getattr(error, "reason", error)
    host = urlsplit(address).netloc
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} is not trusted ({reason.verify_message}): "
            "`sudo apt-get install ca-certificates`, or set SSL_CERT_FILE to the bundle that has "
            "your network's CA"
        )
    return (
        f"cannot reach {host} ({reason}), from where uv is brought once: check the network, "
        "or set HTTPS_PROXY, or UV_DEFAULT_INDEX to a mirror"
    )


def require_hash(name: str, content: bytes, hashes: set[str], pin_file: Path) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual not in hashes:
        raise BootstrapError(
            f"{name} is not the pinned file, nothing was unpacked: its sha256 is {actual}, "
            f"{pin_file.parent.name}/{pin_file.name} allows {' or '.join(sorted(hashes))}"
        )


def install(wheel: bytes, binary: Path) -> None:
    """Writes uv out of the wheel to `binary`: the whole file, or none."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        members = [name for name in archive.namelist() if name.endswith(".data/scripts/uv")]
        if len(members) != 1:
            raise BootstrapError("the wheel has no uv in it")
        content = archive.read(members[0])
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=binary.parent, prefix="uv.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.chmod(0o755)
            temporary.replace(binary)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BootstrapError(f"cannot write {binary}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
