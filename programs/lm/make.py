"""From a model string to a metered DSPy LM."""

from __future__ import annotations

import math
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from personaagent.programs.errors import InputError
from personaagent.programs.lm.endpoint import NUM_RETRIES, Patience
from personaagent.programs.lm.engines import (
    AsyncEndpointEngine,
    AsyncMeteredEngine,
    EndpointEngine,
    MeteredEngine,
    key_for_server,
)
from personaagent.programs.lm.meter import Meter
from personaagent.programs.lm.recording import AsyncRecordingEngine, Recording, RecordingEngine
from personaagent.programs.lm.replay import PREFIX, Replay
from personaagent.programs.memory.encoder import Encoder

OFFLINE = "offline"
"""The model string of the offline reader."""

CALLS_PER_PREDICTION = 2 * (NUM_RETRIES + 1)
"""Most LM calls of one predictor: DSPy's ChatAdapter and its JSON fallback, each with its retries."""


def make_lm(
    model: str,
    *,
    api_base: str | None = None,
    temperature: float | None = None,
    timeout_seconds: float = 60.0,
    retry_wait_seconds: float = 1.0,
    meter: Meter | None = None,
    encoder: str | Encoder = "auto",
    recording: Recording | None = None,
) -> dspy.LM:
    """An LM whose every attempt is booked on a meter, and that keeps no cache.

    Args:
        model: `offline` (the offline reader), any DSPy model string, such as `anthropic/claude-sonnet-4-5` or, with
            `api_base`, `openai/NAME` of a local server, or `replay:FILE`: what such an LM answered when its calls
            were recorded in FILE, under its name (see `Replay`, which also has the other LMs of that file).
        api_base: address of an OpenAI-compatible server. Keys come from the environment only; a server
            that needs none is sent a placeholder.
        temperature: of sampling, from 0. Default: 0.1, the paper's (App. F); of a replay, the recorded one. The
            offline reader does not sample.
        timeout_seconds: of one attempt, slow bodies included; above 0.
        retry_wait_seconds: before the first of at most 5 retries of a transient failure, from 0; it doubles each
            time.
        meter: what all LMs of a run share: its account, and what is known of each endpoint. Default: one of
            its own. What its cap refuses is DSPy's `LMUnexpectedError`, whose cause is a `BudgetError`.
        encoder: of the offline reader; see `load_encoder`.
        recording: where every answer, and every error for good, is kept before it is used. Default: nowhere.

    DSPy's cache is off: its key ignores the endpoint, and its hits report no usage. A program that carries
    this LM saves it without meter and key; it loads with DSPy's `allow_unsafe_lm_state=True`, on a new meter.

    Raises:
        InputError: on an unknown provider, or one whose key is missing from the environment; an api_base that is no
            URL, or holds a password; a value out of range, or one the model refuses; an api_base or a recording
            where there can be none; or a FILE that cannot be replayed (see `Replay.lm`).
        StoreError: if the recording cannot be written.
    """
    meter = meter or Meter()
    patience = Patience(timeout_seconds, NUM_RETRIES, retry_wait_seconds)
    if temperature is not None and not 0 <= temperature < math.inf:
        raise InputError(f"temperature must be from 0 but got {temperature}")
    if model.startswith(PREFIX):
        if api_base:
            raise InputError("a recording has no endpoint: drop --api-base")
        if recording is not None:
            raise InputError("a replay is recorded already: drop --record")
        return Replay(model.removeprefix(PREFIX)).lm(temperature=temperature, meter=meter)
    if model == OFFLINE:
        if api_base:
            raise InputError("the offline reader has no endpoint: drop --api-base, or name a model with --lm")
        from personaagent.programs.lm.offline import OfflineReader

        reader = OfflineReader(encoder)
        return _lm(OFFLINE, MeteredEngine(reader, meter), AsyncMeteredEngine(reader, meter), None, recording)
    if api_base is not None and not api_base.startswith(("http://", "https://")):
        raise InputError(f"api_base must be an http(s) URL, such as http://127.0.0.1:8000/v1, but got {api_base!r}")
    if api_base is not None and "@" in api_base.partition("://")[2].partition("/")[0]:
        raise InputError("api_base must not hold a password: give the endpoint's key in the environment")
    address: dict[str, Any] = {}
    if api_base is not None:
        address = {"api_base": api_base, **key_for_server(model, api_base)}
    # The deadline of an attempt is ours, and of the whole; the client's, which begins anew with each byte, must not
    # come first.
    address["timeout"] = timeout_seconds + 5.0
    try:
        temperature = 0.1 if temperature is None else float(temperature)  # 1 and 1.0 are the same request
        inner = dspy.LM(model, cache=False, num_retries=0, temperature=temperature, **address)
        check_provider(inner, needs_key=api_base is None)
        endpoint = meter.endpoint(api_base or model.partition("/")[0])
        parts = (inner, endpoint, meter, patience)
        return _lm(model, EndpointEngine(*parts), AsyncEndpointEngine(*parts), temperature, recording)
    except InputError:
        raise
    except (LMError, ValueError, TypeError) as error:
        raise InputError(f"the LM {model!r} cannot be used: {error}") from error


class MeteredLM(dspy.LM):
    """What `make_lm` makes. It leaves its history behind when it is pickled, as MLflow pickles DSPy's LM with every
    model."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "history": []}


def _lm(
    model: str,
    engine: MeteredEngine | EndpointEngine,
    async_engine: AsyncMeteredEngine | AsyncEndpointEngine,
    temperature: float | None,
    recording: Recording | None,
) -> dspy.LM:
    engines: dict[str, Any] = {"engine": engine, "async_engine": async_engine}
    if recording is not None:
        engines["engine"] = RecordingEngine(engine, recording)
        engines["async_engine"] = AsyncRecordingEngine(async_engine, recording)
    lm = MeteredLM(model, **engines, temperature=temperature, cache=False, num_retries=0)
    if recording is not None:
        recording.add_lm(model, temperature)
    return lm


def check_provider(lm: dspy.LM, needs_key: bool = True) -> None:
    """See that the model string names a provider and its key is in the environment, without any network.

    Raises:
        InputError: if neither DSPy's own client nor LiteLLM knows the provider, or its key is missing.
    """
    from dspy.clients.backend_selection import select_backend
    from dspy.lm15 import LMRouter, NotConfiguredError, RouterConfig

    selected = select_backend(lm)
    if selected.native:
        route: Any = selected.resolution
        try:
            if needs_key:
                LMRouter(RouterConfig()).lm(f"{route.provider}:{route.model}")
        except NotConfiguredError as error:
            names = " or ".join(getattr(error, "env_keys", ())) or "the provider's key"
            raise InputError(f"no key for {lm.model!r}: set {names} in the environment") from None
        return
    import litellm

    quiet = litellm.suppress_debug_info
    litellm.suppress_debug_info = True  # it would print advice of its own
    try:
        litellm.get_llm_provider(lm.model)
    except Exception:
        raise InputError(
            f"unknown LM provider in {lm.model!r}. A model string is PROVIDER/MODEL, such as "
            f"anthropic/claude-sonnet-4-5 or openai/gpt-4.1; a local OpenAI-compatible server is "
            f"openai/NAME with --api-base URL; {OFFLINE!r} is the offline reader."
        ) from None
    finally:
        litellm.suppress_debug_info = quiet
