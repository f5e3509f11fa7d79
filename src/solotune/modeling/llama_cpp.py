"""llama.cpp's C functions (`include/llama.h`), out of the library in xllamacpp's wheel.

xllamacpp wraps llama.cpp's server, which tells the few likeliest tokens; an exact loss needs every logit. The library
that it loads exports the C functions too, and they are called here. Parameter structs go by value and their layout
changes between versions, so they are handed back as the library filled them in; only the first four numbers of the
context's are set. What they were before and what the context says of them afterwards is checked: on another layout this
refuses, it doesn't measure wrongly.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from solotune.console import safe
from solotune.errors import MachineError, ModelError

INSTALL = "Install it with `pip install 'solotune[gguf]'`; the image and scripts/local.sh have it"
BATCH = 256
"""Tokens of one pass at most: their logits over a vocabulary of 150,000 are 150 MB."""
_ERROR, _GOES_ON = 4, 5  # enum ggml_log_level
_CONTEXT_DEFAULTS = [512, 2048, 512, 1]  # n_ctx, n_batch, n_ubatch, n_seq_max


class _Params(ctypes.Structure):
    """Any of the parameter structs, with room to spare: a longer one is passed and returned like the real one."""

    _fields_ = (("numbers", ctypes.c_uint32 * 512),)


class _Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Model:
    """A GGUF file, memory-mapped, on the CPU.

    Raises:
        MachineError: xllamacpp isn't there, or is a version that this module doesn't know.
        ModelError: llama.cpp can't load the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = _library()
        self.library.errors.clear()
        self.handle = self.library.llama_model_load_from_file(
            str(path).encode(), self.library.llama_model_default_params()
        )
        if not self.handle:
            raise ModelError(f"llama.cpp can't load {path}: {self.library.reason()}")
        self._vocabulary = self.library.llama_model_get_vocab(self.handle)
        self.vocabulary = int(self.library.llama_vocab_n_tokens(self._vocabulary))

    def ends_turn(self, token: int) -> bool:
        """Whether llama.cpp stops generating at this token."""
        return bool(self.library.llama_vocab_is_eog(self._vocabulary, token))

    def context(self, tokens: int, sequences: int = 1, threads: int = 1) -> Context:
        """Room for so many sequences of so many tokens each."""
        return Context(self, tokens, sequences, threads)

    def close(self) -> None:
        """Gives its memory back; closing twice does nothing."""
        if self.handle:
            self.library.llama_model_free(self.handle)
            self.handle = None


class Context:
    """What a model has read: the keys and values of some sequences. Use it in a `with` block."""

    def __init__(self, model: Model, tokens: int, sequences: int, threads: int) -> None:
        library = model.library
        params = library.llama_context_default_params()
        # llama.cpp divides the room evenly among the sequences, in steps of 256.
        asked = [-(-tokens // 256) * 256 * sequences, BATCH, BATCH, sequences]
        params.numbers[:4] = asked
        library.errors.clear()
        self._handle = library.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise ModelError(f"llama.cpp can't run {model.path}: {library.reason()}")
        self._model, self._library = model, library
        self._memory = library.llama_get_memory(self._handle)
        self._batch = library.llama_batch_init(BATCH, 0, 1)
        columns = (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        self._columns = [np.ctypeslib.as_array(column, (BATCH,)) for column in columns]
        # A pass is never longer than the context, so llama.cpp may take less than it was asked for.
        told = [int(getattr(library, f"llama_{name}")(self._handle)) for name in ("n_ctx", "n_seq_max")]
        if told[0] < asked[0] or told[1] != sequences:
            self.close()
            raise _unknown_version(f"asked for {asked}, its context has {told}")
        library.llama_set_n_threads(self._handle, threads, threads)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> npt.NDArray[np.float32]:
        """Reads some tokens, `BATCH` at most.

        Args:
            tokens: ids.
            positions: of each in its sequence.
            sequences: which sequence each belongs to.
            wanted: whether the logits behind it are wanted.

        Returns:
            (wanted, vocabulary) logits in the order of the tokens: llama.cpp's own memory, until the next pass.

        Raises:
            ModelError: llama.cpp failed.
        """
        batch = self._batch
        batch.n_tokens = len(tokens)
        for column, values in zip(self._columns, (tokens, positions, 1, wanted), strict=True):
            column[: len(tokens)] = values
        for i, sequence in enumerate(sequences):
            batch.seq_id[i][0] = sequence
        self._library.errors.clear()
        if code := self._library.llama_decode(self._handle, batch):
            raise ModelError(f"llama.cpp failed on {self._model.path}: {self._library.reason()} (llama_decode: {code})")
        shape = (sum(wanted), self._model.vocabulary)
        if not shape[0]:
            return np.empty(shape, np.float32)
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._handle), shape)

    def forget(self) -> None:
        """Empties all sequences."""
        self._library.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        if self._handle:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Library:
    """The functions, with their types; what llama.cpp logs as an error is kept, the rest of its log is dropped."""

    def __init__(self, path: Path) -> None:
        self._functions = ctypes.CDLL(str(path))
        self.errors: list[str] = []
        self._last_level = 0
        self._log = _LogCallback(self._keep_error)
        try:
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(self._functions, name)
                function.restype, function.argtypes = result, arguments
        except AttributeError as error:
            raise _unknown_version(str(error)) from error
        self.llama_log_set(self._log, None)
        self.llama_backend_init()
        numbers = self.llama_context_default_params().numbers[:4]
        batch = self.llama_batch_init(1, 0, 1)
        pointers = [bool(getattr(batch, name)) for name, _ in _Batch._fields_[1:]]
        if numbers != _CONTEXT_DEFAULTS or batch.n_tokens or pointers != [True, False, True, True, True, True]:
            raise _unknown_version(f"its defaults are {numbers}, its batch {pointers}")
        self.llama_batch_free(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def reason(self) -> str:
        """What llama.cpp said first when it failed, without the name of its function."""
        return safe(self.errors[0].strip().split(": ", 1)[-1], 400) if self.errors else "it didn't say why"

    def _keep_error(self, level: int, text: bytes, _: Any) -> None:
        level = self._last_level if level == _GOES_ON else level
        self._last_level = level
        if level == _ERROR:
            self.errors.append(text.decode(errors="replace"))


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, _LogCallback, ctypes.c_void_p),
    "llama_model_default_params": (_Params,),
    "llama_model_load_from_file": (ctypes.c_void_p, ctypes.c_char_p, _Params),
    "llama_model_free": (None, ctypes.c_void_p),
    "llama_model_get_vocab": (ctypes.c_void_p, ctypes.c_void_p),
    "llama_vocab_n_tokens": (ctypes.c_int32, ctypes.c_void_p),
    "llama_vocab_is_eog": (ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32),
    "llama_context_default_params": (_Params,),
    "llama_init_from_model": (ctypes.c_void_p, ctypes.c_void_p, _Params),
    "llama_n_ctx": (ctypes.c_uint32, ctypes.c_void_p),
    "llama_n_seq_max": (ctypes.c_uint32, ctypes.c_void_p),
    "llama_set_n_threads": (None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32),
    "llama_free": (None, ctypes.c_void_p),
    "llama_get_memory": (ctypes.c_void_p, ctypes.c_void_p),
    "llama_memory_clear": (None, ctypes.c_void_p, ctypes.c_bool),
    "llama_batch_init": (_Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
    "llama_batch_free": (None, _Batch),
    "llama_decode": (ctypes.c_int32, ctypes.c_void_p, _Batch),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), ctypes.c_void_p),
}


@cache
def _library() -> _Library:
    spec = find_spec("xllamacpp")
    found = sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) if spec and spec.origin else []
    if not found:
        raise MachineError("xllamacpp, which runs GGUF files, isn't installed", INSTALL)
    return _Library(found[0])


def _unknown_version(what: str) -> MachineError:
    return MachineError(
        f"xllamacpp {importlib.metadata.version('xllamacpp')} isn't laid out like the versions that are known: {what}",
        "Install the version that pyproject.toml names",
    )
