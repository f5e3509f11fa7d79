"""llama.cpp's quantiser out of cyllama's wheel: FROM TO FTYPE, the last one a number of `enum llama_ftype`."""

from __future__ import annotations

import sys

from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize


def main() -> None:
    source, target, ftype = sys.argv[1:]
    params = LlamaModelQuantizeParams()
    params.ftype = int(ftype)
    try:
        model_quantize(source, target, params)
    except RuntimeError:
        sys.exit(1)  # the reason is the last line that llama.cpp logged


if __name__ == "__main__":
    main()
