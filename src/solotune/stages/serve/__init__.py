"""serve: a run's merged model behind an OpenAI-compatible endpoint of this machine."""

from __future__ import annotations

import errno
import importlib.util
import socket
from pathlib import Path

from solotune.artifacts.measured import damage_of
from solotune.artifacts.run_dir import RunDir
from solotune.config.load import load
from solotune.console import say
from solotune.errors import ArtifactError, Interrupted, MachineError
from solotune.stages.serve import vllm

RUNS = Path("runs")
_SECONDS_FOR_THE_LAST_ANSWERS = 2


def run(wanted: str, host: str, port: int) -> None:
    """Serves the merged model until Ctrl-C, which is how it ends; port 0 takes a free one.

    Args:
        wanted: run id, unique prefix, or `latest`.

    Raises:
        ArtifactError: there is no merged model, or it isn't the one that was proven.
        MachineError: the address can't be served.
    """
    run_dir = RunDir.find(RUNS, wanted)
    merged, computed_in = _proven(run_dir)
    _require_server()
    with _listening(host, port) as listening:
        try:
            _serve(run_dir, merged, computed_in, listening)
        except KeyboardInterrupt:
            return
        except Interrupted as stop:
            raise Interrupted("", stop.exit_code) from None  # nothing here is left unfinished


def print_vllm(wanted: str, port: int) -> None:
    """Prints the command that serves the run with vLLM: the adapter of a LoRA run, the merged model of a QLoRA run.

    vLLM would put a QLoRA adapter onto the 16-bit weights, which it wasn't trained on.

    Raises:
        ArtifactError: what it would serve isn't there, or isn't what was written.
    """
    run_dir = RunDir.find(RUNS, wanted)
    manifest, _ = run_dir.finished()
    config = load(run_dir.config_of(manifest))
    print(vllm.command(run_dir, config, _proven(run_dir)[0] if config.quantization else None, port))


def _proven(run_dir: RunDir) -> tuple[Path, str | None]:
    """The merged model, as `export` wrote and measured it, and in what it was measured where that is known."""
    make_it = f"`invoke export --run {run_dir.run_id} --merge` writes and proves one"
    record = run_dir.exported()
    merged = record.artefacts.get("merged") if record else None
    if merged is None or merged.path is None:
        raise ArtifactError(f"run {run_dir.run_id} has no merged model to serve", make_it)
    folder = run_dir.path / merged.path
    damage = damage_of(merged, run_dir.path)
    if damage:
        raise ArtifactError(
            f"{folder} isn't what was exported: {'; '.join(damage)}",
            f"Delete {run_dir.export} and export again",
        )
    return folder, merged.computed_in


def _serve(run_dir: RunDir, merged: Path, computed_in: str | None, listening: socket.socket) -> None:
    import uvicorn

    from solotune.modeling import card, determinism, serving

    config = load(run_dir.config_of(run_dir.manifest()))
    determinism.start(config)
    card.enforce(config)
    app = serving.application(merged, run_dir.run_id, config)
    # 0.0.0.0 is where a container listens; it is no address to open.
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    here, answers = app.state.computes_in, "at temperature 0 it answers as it was measured"
    if computed_in not in (None, here):
        answers = f"it was measured in {computed_in} and is served in {here}, where near ties can go the other way"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # Not before: until here a Ctrl-C would hit whatever is being set up.
            say(f"{address} (OpenAI's API; Ctrl-C ends it)")
            say(f"model {run_dir.run_id} is {merged}; {answers}")

    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SECONDS_FOR_THE_LAST_ANSWERS)
    Server(settings).run(sockets=[listening])


def _require_server() -> None:
    if missing := [name for name in ("fastapi", "openai", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise MachineError(
            f"serving needs {', '.join(missing)}",
            "They come with `pip install solotune[serve]`, the image and scripts/local.sh have them",
        )


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise MachineError(f"port {port} is in use", f"Choose another one: --port {port + 1}") from None
        raise MachineError(f"can't listen on {host}, port {port}: {error}", "Choose others: --host, --port") from None
