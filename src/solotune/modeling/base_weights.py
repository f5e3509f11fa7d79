"""The base model's weights as the forward pass multiplies with them, one tensor at a time.

transformers quantises a model while it loads all of it. Here a model without weights (on the meta device) says which
layers bitsandbytes takes and how; each is read, quantised and dequantised by itself, on the device kind of training:
a GPU and a CPU round the scales of the scales differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bitsandbytes
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ModelError
from solotune.modeling import shards
from solotune.modeling.base_model import DTYPES, bits_and_bytes


def vocabulary(base: ModelDir) -> int:
    """How many logits the model gives for a position."""
    config = AutoConfig.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


class BaseWeights:
    """What an adapter is merged into.

    Args:
        base: where its files lie.
        config: of the run: type, device and quantisation.
        dequantised: with the quantisation's loss, as QLoRA trains on; otherwise the 16-bit weights of the files.

    Raises:
        ModelError: the files are quantised by themselves, or in a layout that can't be read layer by layer.
    """

    def __init__(self, base: ModelDir, config: RunConfig, *, dequantised: bool) -> None:
        self.base = base
        self.kind = "dequantised" if dequantised else "original"
        self.device = torch.device("cuda", 0) if config.device == "cuda" else torch.device("cpu")
        self._config = config
        self._dtype = DTYPES[config.model.dtype]
        self._quantised = {
            f"{name}.weight": module.weight
            for name, module in self.skeleton().named_modules()
            if isinstance(module, bitsandbytes.nn.Linear4bit)
        }
        lacking = self._quantised.keys() - {name for shard in base.weight_files() for name in shards.places(shard)}
        if lacking:
            raise ModelError(
                f"{base.path}: {len(lacking)} quantised layers have no weights of their own in the files: "
                f"{', '.join(sorted(lacking)[:3])}",
                "This architecture can't be merged; serve the adapter",
            )

    def skeleton(self) -> PreTrainedModel:
        """The model as it is loaded for training, without weights."""
        config = AutoConfig.from_pretrained(self.base.path, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ModelError(
                f"the base model in {self.base.path} is stored quantised",
                "Merge needs 16-bit weights; serve the adapter",
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        if self.kind == "original":
            return model
        quantizer = AutoHfQuantizer.from_config(bits_and_bytes(self._config.quantization), pre_quantized=False)
        quantizer.preprocess_model(model=model, dtype=self._dtype, device_map={"": self.device})
        quantizer.postprocess_model(model)
        for name, module in model.named_modules():
            if getattr(module, "source_cls", None) is Conv1D:
                raise ModelError(f"{name} is stored transposed (Conv1D)", "It can't be merged; serve the adapter")
        return model

    def tensors(self) -> Iterator[tuple[Path, str]]:
        """Every tensor: its file and its name."""
        for shard in self.base.weight_files():
            for name in shards.places(shard):
                yield shard, name

    def read(self, shard: Path, name: str) -> torch.Tensor:
        """One tensor, in the type that the model computes with; a quantised one is on `device`."""
        value = shards.read(shard, name)
        if not value.is_floating_point():
            return value
        value = value.to(self._dtype)
        settings = self._quantised.get(name)
        if settings is None:
            return value
        # As transformers' Bnb4bitQuantize, but for the module: it would keep each quantised weight.
        how = {key: setting for key, setting in vars(settings).items() if key != "module"}
        packed = bitsandbytes.nn.Params4bit(value.to(self.device), requires_grad=False, **how).to(self.device)
        dense: torch.Tensor = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
        return dense
