"""A persona for any DSPy program: `personalize(program, memory)` serves each user by that user's own.

The program stays what it is. Its control flow, typed signatures, demonstrations and per-module LMs are its own; each
of its predictors gets the persona into the system message of its requests (acting.py), and each `dspy.ReAct` or
`ReActV2` in it gets the tool `recall` beside its own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import dspy

from personaagent.programs.acting import KEEPER
from personaagent.programs.errors import InputError
from personaagent.programs.handles import MAX_PARTS, Origin, ServesUsers, check_count, defines, modules_in, own, shallow
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.protocol import chooses_tools, keep_protocol, tools_held, tools_of
from personaagent.programs.spending import MEASURED, Spent, is_measured, mark_measured, spending
from personaagent.programs.tools.recall import RECALL_DESCRIPTION, RecallSession, recall_tool, recalling

PROGRAM_TEMPLATE = """\
You serve one particular user, and do the task below as this user would want it done.

What is known of this user: {profile}

How to work:
1. Think about what you need to know of this user's preferences for the task.
{tool_rules}
The task stays as it is described below, and so do its fields and their form. A step that offers no tools needs none."""
"""The initial persona of a personalised program; see `initial_persona`. Unlike an agent's it does not say how an
answer looks: it stands before every predictor, those that write queries or classify included."""

_NO_TOOLS = "Rely on what is known of this user and on what you know yourself."
"""A program without agents may have tools that are not seen from outside, such as one that it makes on the way."""

_WRITTEN_BEFORE = ("reasoning", "rationale")


def personalize(
    program: dspy.Module,
    memory: MemoryStore | None = None,
    *,
    memories: int = 4,
    query: str | None = None,
    response: str | None = None,
    persona_template: str = PROGRAM_TEMPLATE,
    recall_description: str = RECALL_DESCRIPTION,
) -> Personalized:
    """The program, personalised: `personalize(program, memory).for_user("ann")` answers as the program does, for ann.

    Example:
        >>> import dspy
        >>> from personaagent.optimizers import PersonaAlignment
        >>> from personaagent.programs import MemoryStore, make_lm, personalize
        >>> dspy.configure(lm=make_lm("offline"))  # or dspy.LM(...) of your own
        >>> shared = personalize(dspy.ReAct("question -> answer", tools=[]), MemoryStore())
        >>> ann = shared.for_user("ann")
        >>> _ = ann.record("Genre? [drama, western] A dog waits at a station.", "western", id="1")
        >>> ann(question="Genre? [drama, western] A horse waits at a station.").answer
        'western'
        >>> history = [interaction.to_example("question", "answer") for interaction in ann.interactions()]
        >>> ann = PersonaAlignment(batch_size=1).compile(ann, trainset=history)
        >>> ann.persona.version
        1

    Args:
        program: any DSPy module: `Predict`, `ChainOfThought`, `ReAct`, or one of your own with whatever control flow.
            It is copied and never changed. A `PersonaAgent` inside it that serves no user yet is bound to each
            handle's user and shares the persona; one that serves a user already keeps that one and its persona.
        memory: where users' interactions, profiles and personas are; None for a program without memory.
        memories: K, how many interactions `recall` returns; from 0, which adds no tool.
        query, response: names of the input and the output that memory and alignment are about. Default: the first of
            each of the program's signature. A program without one has its first argument and, if it has one
            predictor only, that one's first output.
        persona_template: text of an initial persona; see `initial_persona`. An empty one gives personas without text,
            which add nothing to any prompt.
        recall_description: what the LM is told of `recall`.

    Returns:
        The shared, personalised program. It serves no user yet, and does not answer.

    Raises:
        InputError: if the program is no DSPy module, has neither `forward` nor `aforward`, is personalised already or
            serves a user; if it holds predictors where each user cannot have their own; if an agent in it has a tool
            `recall` of its own and one is to be added; if `query` or `response` is no field of its signature, or cannot
            be told; on a value out of range.
    """
    return Personalized(
        program,
        memory,
        memories=memories,
        query=query,
        response=response,
        persona_template=persona_template,
        recall_description=recall_description,
    )


class Personalized(ServesUsers, dspy.Module):
    """A program that acts by its user's persona; see `personalize` for the arguments.

    One serves many users: `for_user(user_id)` is a cheap, isolated handle, and the handle is what answers. Both are
    ordinary DSPy modules, and `program` is the program itself: optimizers see its predictors and instructions, and
    `save` writes them and the persona.

    * The innermost persona wins. Where a handle, or a `PersonaAgent`, is part of a program that is personalised for
      another user, its predictors see its own persona and memory, and nothing of the other user's.
    * A handle has its own modules, lists and dictionaries, so that what a program keeps on itself of a user stays
      there (and is not saved, as with any DSPy program). Anything else that the program holds is shared by all users:
      a retriever, an object of another class, a function that is a tool and writes somewhere.
    * A program may choose adapters and callbacks of its own with `dspy.context`. Only `dspy.Refine` and `BestOfN` under
      callbacks that it replaces lose the persona: they call copies, which leave callbacks behind.
    * The persona follows DSPy's context: into tasks, `dspy.Parallel`, `dspy.asyncify` and threads that copy the
      context, but not into plain threads that a program starts, where DSPy's own settings do not reach either.
    * What an optimizer has rewritten is followed by ReAct's tool protocol if it was lost.
    """

    _no_tools = _NO_TOOLS

    def __init__(
        self,
        program: dspy.Module,
        memory: MemoryStore | None = None,
        *,
        memories: int = 4,
        query: str | None = None,
        response: str | None = None,
        persona_template: str = PROGRAM_TEMPLATE,
        recall_description: str = RECALL_DESCRIPTION,
    ) -> None:
        super().__init__()
        check_count("memories", memories, 0)
        if not isinstance(program, dspy.Module):
            raise InputError(f"a program is a dspy.Module, but got {program!r}")
        if isinstance(program, ServesUsers) and program.user_id is not None:
            raise InputError(f"the program serves {program.user_id!r} already: personalise the shared one it came of")
        if isinstance(program, Personalized):
            raise InputError("the program is personalised already: personalise the one that it was made of")
        # Before the program: parameters are named by the first place in which they are found.
        self._serve_nobody(memory, memories, persona_template)
        self.program = own(program)
        _check_apart(program, self.program)
        # Of a compiled module inside another one DSPy saves nothing.
        self.program._compiled = False
        self._signature = _signature_of(self.program)
        self.query_field = _query_field(self.program, self._signature, query)
        self.response_field = _response_field(self.program, self._signature, response)
        remembers = memory is not None and memories > 0
        for agent in _agents(self.program):
            keep_protocol(agent, recall_tool(recall_description) if remembers else None)
        self._tool_names = tuple(dict.fromkeys(_tool_names(self.program)))
        self._has_inner = bool(_inner(self.program))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools of all modules in the program, each once, without ReAct's `finish`."""
        return self._tool_names

    def inputs_of(self, example: dspy.Example) -> dict[str, Any]:
        """The program's inputs in an example: those that it was given `with_inputs`, else those of the signature.

        Raises:
            InputError: if neither says which they are.
        """
        if getattr(example, "_input_keys", None) is not None:
            return dict(example.inputs().items())
        if self._signature is None:
            raise InputError("the program has no signature: say with example.with_inputs(...) which fields are inputs")
        return {name: example[name] for name in self._signature.input_fields if name in example}

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Answer, as the program does.

        Returns:
            What the program returns. A `dspy.Prediction` has beside its own fields, which are never replaced:
            `persona_version`, `recalled` (ids of the interactions that recall returned), `lm_calls`, `prompt_tokens`,
            `completion_tokens` (as far as the LM reports them) and `seconds`.

        Raises:
            PersonaAgentError: if no user is served, the memory could not be read, or the adapter is no `dspy.Adapter`
                or leaves no place for a persona.
            InputError: if the program has no `forward`, but an `aforward`.
            Whatever the program raises.
        """
        self._check_has("forward", "acall")
        session = replace(self._recall_session(), keeps_failure=True)
        with self._serving(session) as spent:
            outcome = self.program(*args, **inputs)
        return self._finished(outcome, session, spent)

    async def aforward(self, *args: Any, **inputs: Any) -> Any:
        """As `forward`; the program needs an `aforward`, as DSPy's own modules have."""
        self._check_has("aforward", "a plain call, or dspy.asyncify")
        session = replace(self._recall_session(), keeps_failure=True)
        with self._serving(session) as spent:
            outcome = await self.program.acall(*args, **inputs)
        return self._finished(outcome, session, spent)

    def _check_has(self, method: str, otherwise: str) -> None:
        if not defines(self.program, method):
            raise InputError(f"the program, {type(self.program).__name__}, has no {method}: use {otherwise}")

    @contextmanager
    def _serving(self, session: RecallSession) -> Iterator[Spent]:
        for predictor in self.program.predictors():
            if KEEPER not in predictor.callbacks:  # DSPy's copies leave callbacks behind
                predictor.callbacks.append(KEEPER)
        with self._acting(), recalling(session), spending() as spent:
            yield spent
        if session.failure is not None:
            raise session.failure  # an answer without the memory is not one for this user

    def _finished(self, outcome: Any, session: RecallSession, spent: Spent) -> Any:
        if not isinstance(outcome, dspy.Prediction):
            return outcome
        # A copy: DSPy's trace holds the prediction itself, and demonstrations are made of it.
        prediction: Any = copy.copy(outcome)
        added = {
            "persona_version": self.persona.version if self.persona else None,
            "recalled": [interaction.id for interaction in session.recalled],
            **vars(spent),
        }
        # Of a handle inside the program they are of a part of this question only.
        theirs = {n: v for n, v in outcome._store.items() if not (n in MEASURED and is_measured(outcome))}
        prediction._store = theirs | {name: value for name, value in added.items() if name not in theirs}
        mark_measured(prediction)
        return prediction

    # -- handles ----------------------------------------------------------------------------------

    def _handle(self) -> Self:
        handle = shallow(self)
        handle.persona = copy.copy(self.persona)
        handle.program = own(self.program)
        return handle

    def _serve(self, **changed: Any) -> Self:
        handle = super()._serve(**changed)
        for agent, shared in handle._inner_beside(self):
            if self._is_ours(shared):
                agent._origin = agent._origin or Origin(shared)
                agent.user_id, agent.persona = handle.user_id, handle.persona
                agent._before, agent._since = handle._before, handle._since
                agent._view = agent._view if shared.user_id == handle.user_id else None
            elif shared.user_id == handle.user_id:
                # Someone else's choice of this user's persona. What is hidden here is so there, too.
                before = [place for place in (agent._before, handle._before) if place is not None]
                since = [place for place in (agent._since, handle._since) if place is not None]
                agent._before = min(before, key=_position, default=None)
                agent._since = max(since, key=_position, default=None)
        return handle

    def _inner_beside(self, other: Personalized) -> Iterator[tuple[ServesUsers, ServesUsers]]:
        """What serves users inside the program, each beside the one in the same place of another copy."""
        return zip(_inner(self.program), _inner(other.program), strict=True) if self._has_inner else iter(())

    def _is_ours(self, agent: ServesUsers) -> bool:
        """Whether it serves this handle's user as the handle does, or nobody yet."""
        served = (agent.user_id, agent.persona, agent._before, agent._since)
        return agent.user_id is None or served == (self.user_id, self.persona, self._before, self._since)

    def deepcopy(self) -> Self:
        """As DSPy's; agents inside share the copy's persona if they shared this one."""
        copied: Any = super().deepcopy()
        for mine, its in self._inner_beside(copied):
            if mine.persona is self.persona:
                its.persona = copied.persona
        return copied


def _position(place: Interaction | Position) -> Position:
    return place.position if isinstance(place, Interaction) else place


def _inner(program: dspy.Module) -> list[ServesUsers]:
    """Agents and personalised programs inside a program."""
    return [module for module in modules_in(program) if isinstance(module, ServesUsers)]


def _agents(program: dspy.Module) -> list[Any]:
    """DSPy's own tool-choosing agents inside a program; what serves users looks after its tools itself."""
    apart = {id(part) for inner in _inner(program) for part in modules_in(inner)}
    return [module for module in modules_in(program) if id(module) not in apart and chooses_tools(module)]


def _check_apart(program: dspy.Module, copied: dspy.Module) -> None:
    theirs = {id(parameter): name for name, parameter in program.named_parameters()}
    shared = [theirs[id(parameter)] for _, parameter in copied.named_parameters() if id(parameter) in theirs]
    if shared:
        raise InputError(
            f"all users would share {shared[0]}, and what is learnt for one of them: hold it in an attribute, a list, "
            f"a tuple or a dictionary of no more than {MAX_PARTS}"
        )


def _tool_names(program: dspy.Module) -> Iterator[str]:
    for agent in (agents := _agents(program)):
        yield from (tool.name for tool in tools_of(agent))
    for inner in _inner(program):
        yield from inner.tool_names
    apart = {id(part) for inner in _inner(program) for part in modules_in(inner)} | set(map(id, agents))
    for module in modules_in(program):
        if id(module) not in apart:
            yield from (tool.name for tool in tools_held(module) if tool.name)


def _signature_of(program: Any) -> type[dspy.Signature] | None:
    """The signature of a whole program, if it has one."""
    stated: Any = getattr(program, "signature", None)
    if isinstance(stated, type) and issubclass(stated, dspy.Signature):
        inputs = dict(stated.input_fields)  # type: ignore[attr-defined]
        # A module of the user's own may hold a signature that is not the one of its forward.
        return stated if all(name in inputs for name in _named(_arguments(program, optional=False))) else None
    if isinstance(program, dspy.ChainOfThought | dspy.MultiChainComparison):
        signature: Any = program.predict.signature
        added = [name for name in signature.output_fields if name in _WRITTEN_BEFORE][:1]
        added += [name for name in signature.input_fields if name.startswith("reasoning_attempt_")]
        for name in added:
            signature = signature.delete(name)
        return signature
    if isinstance(program, dspy.BestOfN | dspy.Refine):
        return _signature_of(program.module)
    return None


def _query_field(program: Any, signature: type[dspy.Signature] | None, given: str | None) -> str:
    if signature is not None:
        return _first(signature.input_fields, given, "query")
    arguments = _arguments(program)
    named = _named(arguments)
    if given is not None:
        if given not in named and not any(kind is inspect.Parameter.VAR_KEYWORD for kind in arguments.values()):
            raise InputError(f"query={given!r} is not an argument of the program's forward; it has {', '.join(named)}")
        return given
    if not named:
        raise InputError("the program's forward names no argument: say with query=... which input memory is about")
    return named[0]


def _named(arguments: dict[str, Any]) -> list[str]:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, kind in arguments.items() if kind in by_name]


def _arguments(program: Any, optional: bool = True) -> dict[str, Any]:
    # Of the class: DSPy warns of forward where it is taken from a module and not called by it.
    method = getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)
    if method is None:
        raise InputError(f"the program has no forward: {type(program).__name__}")
    parameters = list(inspect.signature(method).parameters.items())[1:]
    return {name: p.kind for name, p in parameters if optional or p.default is inspect.Parameter.empty}


def _response_field(program: Any, signature: type[dspy.Signature] | None, given: str | None) -> str:
    if signature is not None:
        return _first(signature.output_fields, given, "response")
    if given is not None:
        return given
    predictors = program.predictors()
    outputs = [name for p in predictors for name in p.signature.output_fields if name not in _WRITTEN_BEFORE]
    if len(predictors) != 1 or not outputs:
        raise InputError(
            f"the program has {len(predictors)} predictors and no signature: say with response=... which of its "
            f"outputs memory is about, one of {', '.join(dict.fromkeys(outputs)) or 'those that it returns'}"
        )
    return outputs[0]


def _first(fields: dict[str, Any], given: str | None, what: str) -> str:
    if not fields:
        raise InputError(f"the program's signature has no field that could be the {what}")
    if given is not None and given not in fields:
        raise InputError(f"{what}={given!r} is not a field of the program's signature; it has {', '.join(fields)}")
    return given or next(iter(fields))
