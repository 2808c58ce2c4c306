"""Benchmarks: ratios within one run, each against a named floor or peer. `make bench`.

python experiments/bench.py [depth] [handles] [episode] [recall]       default: all
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from personaagent.experiments.harness import command  # noqa: F401  first: it sets the environment

import dspy  # isort: skip
import numpy as np  # isort: skip
from dspy.lm15 import Message, Request, Response, TextPart, Usage  # isort: skip

from personaagent.optimizers import PersonaAlignment  # isort: skip
from personaagent.programs import Interaction, MemoryStore, PersonaAgent  # isort: skip

LATENCY_SECONDS = 0.2
BATCH_SIZE = 16
DEPTH_TARGET = 1.25
"""One alignment step takes at most so many times (R + 2) x latency."""


class FixedLatencyEngine:
    """Recalls once if it can, finishes, answers; each call takes the same time."""

    def __init__(self, latency_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        self.calls = 0

    def complete(self, request: Request) -> Response:
        time.sleep(self.latency_seconds)
        self.calls += 1
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        user = request.messages[-1].text or ""
        if "next_tool_name" in system:
            tool = "recall" if "[[ ## observation_0 ## ]]" not in user else "finish"
            arguments = '{"query": "x"}' if tool == "recall" else "{}"
            fields = {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
        else:
            names = ("reasoning", "response", "feedback", "new_persona")
            fields = {name: "text" for name in names if f"[[ ## {name} ## ]]" in system}
        text = "\n\n".join([f"[[ ## {k} ## ]]\n{v}" for k, v in fields.items()] + ["[[ ## completed ## ]]"])
        message = Message.assistant([TextPart(text)])
        usage = Usage(input_tokens=1, output_tokens=1)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


class RandomEncoder:
    """Unit vectors drawn from a text's own bytes: retrieval is measured, not encoding."""

    name, dimension = "random-384", 384

    def encode(self, text: str) -> Any:
        vector = np.random.default_rng(list(text.encode())).standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def _store(interactions: int) -> MemoryStore:
    store = MemoryStore(encoder=RandomEncoder())
    store.add(Interaction("ann", str(i), f"question {i}", f"answer {i}", "2020-01-01", i) for i in range(interactions))
    return store


def _lm(engine: FixedLatencyEngine) -> dspy.LM:
    return dspy.LM("bench", engine=engine, cache=False, num_retries=0)


def _best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some calls: the others measure what else the machine does."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def depth() -> bool:
    """One alignment step at n=16 against its floor, R + 2 calls one after another."""
    store = _store(40)
    engine = FixedLatencyEngine(LATENCY_SECONDS)
    student = PersonaAgent("query -> response", memory=store).for_user("ann")
    examples = [i.to_example() for i in store.interactions("ann")]
    with dspy.context(lm=_lm(engine)):
        longest = student(query="warm up").lm_calls
        engine.calls = 0
        started = time.perf_counter()
        PersonaAlignment(BATCH_SIZE, 1).compile(student, trainset=examples)
        seconds = time.perf_counter() - started
    floor = (longest + 2) * LATENCY_SECONDS
    one_by_one = engine.calls * LATENCY_SECONDS
    print(
        f"depth    one step at n={BATCH_SIZE}, {engine.calls} LM calls of {LATENCY_SECONDS} s: {seconds:.2f} s = "
        f"{seconds / floor:.2f} x the floor (R+2) x latency, R={longest}; target at most {DEPTH_TARGET}; "
        f"one call after another would be {one_by_one / floor:.1f} x"
    )
    return seconds <= DEPTH_TARGET * floor


def handles() -> bool:
    """for_user against making an agent for each user."""
    agent = PersonaAgent("query -> response", memory=_store(40))
    handle = _best(lambda: [agent.for_user("ann") for _ in range(100)], 5) / 100
    anew = _best(lambda: [PersonaAgent("query -> response", memory=agent.memory) for _ in range(20)], 5) / 20
    tracemalloc.start()
    kept = [agent.for_user("ann") for _ in range(200)]
    size = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    print(
        f"handles  for_user, its persona read from the store: {handle * 1e3:.2f} ms and {size / 1024:.0f} KiB a user; "
        f"{handle / anew:.2f} x an agent made anew"
    )
    return True


def episode() -> bool:
    """A question's own work, without LM latency, against dspy.ReAct with the same tool and replies."""
    store = _store(40)

    def recall(query: str) -> str:
        return "2020-01-01 «question» -> answer"

    ours = PersonaAgent("query -> response", memory=store).for_user("ann")
    theirs = dspy.ReAct("query -> response", tools=[recall], max_iters=6)
    with dspy.context(lm=_lm(FixedLatencyEngine(0.0)), trace=None, disable_history=True):
        seconds = {
            name: _best(lambda agent=agent: [agent(query="q?") for _ in range(20)], 5) / 20  # type: ignore[misc]
            for name, agent in (("ours", ours), ("theirs", theirs))
        }
    print(
        f"episode  3 LM calls without latency, with memory and persona: {seconds['ours'] * 1e3:.1f} ms = "
        f"{seconds['ours'] / seconds['theirs']:.2f} x dspy.ReAct with a constant tool"
    )
    return True


def recall() -> bool:
    """recall of 4 among 1,000 interactions against a bare numpy product and sort."""
    store = _store(1_000)
    view = store.episodic("ann")
    vectors, query = store.snapshot("ann").vectors, store.encoder.encode("x")
    seconds = statistics.median(_best(lambda: view.recall("x", 4), 20) for _ in range(5))
    floor = statistics.median(_best(lambda: np.argsort(vectors @ query)[-4:], 20) for _ in range(5))
    print(
        f"recall   4 of 1,000 interactions: {seconds * 1e3:.2f} ms = {seconds / floor:.1f} x a bare numpy product and "
        f"sort (the rest: the SQL look for newer interactions, checks, encoding by a stub)"
    )
    return True


BENCHMARKS: dict[str, Callable[[], bool]] = {"depth": depth, "handles": handles, "episode": episode, "recall": recall}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"error: unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    missed = [name for name in names or BENCHMARKS if not BENCHMARKS[name]()]
    if missed:
        print(f"missed its target: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
