"""An alignment as one trace: a span a rollout, a gradient, an update."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, PersonaAgent
from personaagent.programs.handles import ServesUsers


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.dspy.autolog(log_traces_from_compile=True)
    yield
    mlflow.dspy.autolog(disable=True)
    mlflow.set_tracking_uri(before)


def broken(query: str) -> str:
    """Never works."""
    raise OSError("no route to it")


def calls_broken(call: Any) -> dict[str, str]:
    texts = {"next_tool_name": "finish" if call.steps_taken else "broken", "next_tool_args": '{"query": "x"}'}
    return {name: texts.get(name, "yes") for name in call.outputs}


def student(encoder: Any) -> tuple[ServesUsers, list[dspy.Example]]:
    store = MemoryStore(encoder=encoder)
    history = [Interaction("ann", str(i), f"question {i}", "yes", "2020-01-01", i) for i in range(3)]
    store.add(history)
    handle = PersonaAgent("query -> answer", memory=store, tools=[broken]).for_user("ann")
    return handle, [interaction.to_example("query", "answer") for interaction in history]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_mlflow_shows_an_alignment_as_one_readable_trace(
    threads: int, asynchronous: bool, traced: None, encoder: Any, scripted: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    handle, trainset = student(encoder)
    alignment, lm = PersonaAlignment(2, 1, num_threads=threads), scripted(calls_broken)[0]
    with dspy.context(lm=lm, track_usage=True):
        if asynchronous:
            asyncio.run(alignment.acompile(handle, trainset=trainset))
        else:
            alignment.compile(handle, trainset=trainset)
    mlflow.flush_trace_async_logging()
    [trace] = mlflow.search_traces(return_type="list")
    names = {span.span_id: span.name.removesuffix(".forward") for span in trace.data.spans}
    edges = [(names.get(span.parent_id), names[span.span_id]) for span in trace.data.spans]
    assert edges.count(("AlignmentIteration", "Rollout")) == 2
    assert edges.count(("Rollout", "PersonaAgent")) == 2
    assert edges.count(("Rollout", "TextualGradient")) == 2
    assert edges.count(("AlignmentIteration", "PersonaUpdate")) == 1
    assert (None, "Alignment") in edges and ("Alignment", "AlignmentIteration") in edges
    rollouts = [span.inputs for span in trace.data.spans if span.name == "Rollout.forward"]
    assert sorted(inputs["interaction"] for inputs in rollouts) == ["1", "2"]
    faults = [span.outputs["faults"] for span in trace.data.spans if span.name == "Rollout.forward"]
    assert faults == [["tool broken failed in step 1: OSError: no route to it"]] * 2
    count = {
        kind: sum(span.name.endswith(kind) for span in trace.data.spans) for kind in ("LM.__call__", "format", "parse")
    }
    assert len(set(count.values())) == 1, count  # of each request one span a part
    [whole] = [span.outputs for span in trace.data.spans if span.name == "Alignment.forward"]
    assert (whole["persona_version"], whole["persona"], whole["kept_because"]) == (1, "yes", [None])
    assert "Failed to set LM usage" not in capfd.readouterr().err
