"""The command that serves a run with vLLM, in vLLM's own image.

It hasn't been run: there is no registry where this was written. The image's digest is the one that many public
repositories have for this tag, its options are those of its documentation.
"""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.config.schema import RunConfig
from solotune.config.vllm import max_lora_rank
from solotune.errors import ModelError

IMAGE = "vllm/vllm-openai:v0.29.0@sha256:c2914767605584b6d8f45686b82de173ecc99e781897aa3d0a66dacd72c51ae1"


def command(run_dir: RunDir, config: RunConfig, merged: Path | None, port: int) -> str:
    """For a shell in the repository's root: this machine's 127.0.0.1 alone reaches it, and it reaches nothing.

    Args:
        merged: what is served; None: the adapter on the base model that it was trained on.

    Raises:
        ModelError: vLLM takes no adapter of this rank.
    """
    name = run_dir.run_id
    template = (merged or run_dir.adapter) / ModelDir(run_dir.adapter).chat_template.name
    if merged:
        mounts = [f'--volume "$PWD/{merged}":/model:ro']
        what = [f"--served-model-name {name}"]
    else:
        # The image's volume, or another disk: only the shell that types this knows.
        base = f'"${{SOLOTUNE_MODELS:-$PWD/models}}/{ModelDir.of(config.model).path.name}"'
        mounts = [f"--volume {base}:/model:ro", f'--volume "$PWD/{run_dir.adapter}":/adapter:ro']
        rank = max_lora_rank(config.lora.r)
        if rank is None:
            raise ModelError(f"vLLM takes no adapter of rank {config.lora.r}", "Train one with a smaller lora.r")
        what = [f"--served-model-name {name}-base --enable-lora --max-lora-rank {rank} --lora-modules {name}=/adapter"]
    lines = [
        "docker run --rm --gpus all --shm-size 8g --cap-drop ALL --security-opt no-new-privileges",
        f"--network {_NETWORK} --publish 127.0.0.1:{port}:8000",
        "--env HF_HUB_OFFLINE=1 --env VLLM_NO_USAGE_STATS=1 --env DO_NOT_TRACK=1",
        *mounts,
        f'--volume "$PWD/{template}":/chat_template.jinja:ro',
        IMAGE,
        # vLLM's own sampling: what the base model came with was switched off in every measurement.
        "/model --chat-template /chat_template.jinja --generation-config vllm",
        *what,
    ]
    return f"{_MAKE_NETWORK}\n{_JOINED.join(lines)}"


_NETWORK = "solotune-loopback"
_MAKE_NETWORK = (
    f"docker network inspect {_NETWORK} > /dev/null 2>&1 || "
    f"docker network create --opt com.docker.network.bridge.enable_ip_masquerade=false {_NETWORK}"
)
_JOINED = " \\\n    "
