"""transformers' own OpenAI-compatible server, for one model of this machine.

`transformers serve` itself loads any model that a request names, asks PyPI for newer versions, and lists the hub's
cache as its models. So it is put together here from its parts (`transformers/cli/serve.py`), with less in it: one
model, no route that loads another, no host name but this machine's, and prompts that the run's encoder makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import AutoTokenizer, BatchEncoding, GenerationConfig, PreTrainedModel
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ModelError
from solotune.modeling import merged_model
from solotune.modeling.base_model import computes_in
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.chatting import Turn

_ROUTES = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health"}
_HOSTS = ["127.0.0.1", "localhost"]
"""Names by which a request may ask for this machine: a web page that names it otherwise gets nothing."""


def application(folder: Path, name: str, config: RunConfig) -> FastAPI:
    """The server as an ASGI application, with the model loaded; `state.computes_in` says in what it computes.

    Args:
        folder: a merged model.
        name: the `model` of requests; they may leave it out.
        config: of the run.
    """
    manager, state = _OneModel(folder, name, config), GenerationState()
    handlers = {
        "completion_handler": CompletionHandler(manager, state),
        "response_handler": ResponseHandler(manager, state),
        "transcription_handler": TranscriptionHandler(manager, state),
        "systemone_handler": SystemOneHandler(manager, state),
    }
    app: FastAPI = build_server(manager, ChatCompletionHandler(manager, state), generation_state=state, **handlers)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in _ROUTES]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)
    app.state.computes_in = manager.computes_in
    return app


class _OneModel(ModelManager):
    """Upstream's keeper of models, holding one from beginning to end."""

    def __init__(self, folder: Path, name: str, config: RunConfig) -> None:
        self._folder, self._config, self._name = folder, config, name
        self._encoder = ChatEncoder.open(ModelDir(folder))
        super().__init__(force_model=name)

    def _load_processor(self, *args: Any, **kwargs: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        return _encoding_as_trained(tokenizer, self._encoder)

    def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        model = merged_model.load(self._folder, self._config)
        self.computes_in = computes_in(model, self._config)
        # OpenAI's defaults, and nothing that the base model came with: at temperature 0 it says what was measured.
        model.generation_config = GenerationConfig(
            do_sample=True, top_k=0, eos_token_id=sorted(self._encoder.stop_ids), pad_token_id=self._encoder.pad_id
        )
        return model.eval()

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """The name as it was given; upstream adds a revision, which answers then show."""
        return model_id

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:
        """What /v1/models lists."""
        created = int((self._folder / "config.json").stat().st_mtime)
        return [{"id": self._name, "object": "model", "created": created, "owned_by": "solotune"}]


def _encoding_as_trained(tokenizer: Any, encoder: ChatEncoder) -> Any:
    """The tokenizer, with chats of plain text turned into ids as for training: contents can't become control tokens.

    What the encoder has no notion of (tools, options of the template) goes upstream's way.
    """
    upstream = tokenizer.apply_chat_template

    def apply_chat_template(messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        is_plain = all(message.keys() == {"role", "content"} for message in messages)
        if not is_plain or any(value for option, value in options.items() if option not in _PLAIN):
            return upstream(messages, **options)
        try:
            ids = encoder.encode_prompt([Turn(message["role"], message["content"]) for message in messages])
        except ModelError as error:
            raise HTTPException(400, str(error)) from error
        input_ids = torch.tensor([ids])
        return BatchEncoding({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})

    tokenizer.apply_chat_template = apply_chat_template
    return tokenizer


_PLAIN = {"add_generation_prompt", "return_tensors", "return_dict", "tokenize"}
"""What the server always asks of `apply_chat_template`, and gets."""
