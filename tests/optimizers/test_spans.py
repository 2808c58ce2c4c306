"""An alignment as one trace: a span a rollout, a gradient, an update."""

from __future__ import annotations

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


def student(encoder: Any) -> tuple[ServesUsers, list[dspy.Example]]:
    store = MemoryStore(encoder=encoder)
    history = [Interaction("ann", str(i), f"question {i}", "yes", "2020-01-01", i) for i in range(3)]
    store.add(history)
    handle = PersonaAgent("query -> answer", memory=store).for_user("ann")
    return handle, [interaction.to_example("query", "answer") for interaction in history]


@pytest.mark.parametrize("threads", [1, 2])
def test_mlflow_shows_an_alignment_as_one_readable_trace(
    threads: int, traced: None, encoder: Any, scripted: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    handle, trainset = student(encoder)
    lm, _ = scripted()
    with dspy.context(lm=lm, track_usage=True):
        PersonaAlignment(2, 1, num_threads=threads).compile(handle, trainset=trainset)
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
    assert "Failed to set LM usage" not in capfd.readouterr().err
