"""What a handle is made of: parts of its own, the shared module that it came from, and the user whom it serves."""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import CellType, MethodType
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

import dspy
from dspy.predict.parameter import Parameter

from personaagent.programs.acting import acting_as
from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.interaction import LONE_SURROGATE, Interaction, Position, normalise_timestamp
from personaagent.programs.memory.episodic import EpisodicMemory, visible_rows
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import NO_TOOLS, Persona, initial_persona
from personaagent.programs.streaming import streaming_as
from personaagent.programs.tools.recall import RecallSession

Module = TypeVar("Module", bound=dspy.Module)

MAX_PARTS = 256
"""A longer list or dictionary is data, such as a corpus: no modules are looked for in it."""


_DSPYS = frozenset(("history", "callbacks"))
"""What DSPy keeps on every module of the calls that were made."""

_PREDICTS = _DSPYS | {"demos", "traces", "train"}
"""What it keeps on a predictor."""


class Origin:
    """The shared module that a handle was made from, wrapped so that DSPy does not take it for a part of the handle."""

    def __init__(self, module: dspy.Module) -> None:
        self.module: Any = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self


class ServesUsers:
    """What PersonaAgent and personalised programs have in common: one shared module, and a handle for each user.

    A mixin beside `dspy.Module`. The module sets its attributes with `_serve_nobody`, and makes copies in `_handle`.
    """

    persona: Persona | None
    """A DSPy parameter: `save` and `load` carry it, as JSON."""
    user_id: str | None
    memory: MemoryStore | None
    memories: int
    persona_template: str
    query_field: str
    response_field: str
    _before: Interaction | Position | None
    _since: Interaction | Position | None
    _view: EpisodicMemory | None
    _origin: Origin | None
    _no_tools: str = NO_TOOLS

    def _serve_nobody(self, memory: MemoryStore | None, memories: int, persona_template: str) -> None:
        check_count("memories", memories, 0)
        if memory is not None and not isinstance(memory, MemoryStore):
            raise InputError(f'memory must be a store, such as MemoryStore("sqlite:///memory.db"), but got {memory!r}')
        if not isinstance(persona_template, str):
            raise InputError(f"persona_template must be text, but got {persona_template!r}")
        self.memory = memory
        self.memories = memories
        self.persona_template = persona_template
        self.user_id = self.persona = None
        self._before = self._since = self._view = self._origin = None

    def _handle(self) -> Self:
        """A copy that shares nothing that is a user's."""
        raise NotImplementedError

    def _serve(self, **changed: Any) -> Self:
        """A handle with other values of some attributes. Whatever it is made of serves alike."""
        _check_forward(self)
        handle = self._handle()
        for name, value in changed.items():
            setattr(handle, name, value)
        return handle

    def for_user(self, user_id: str, *, persona: Persona | None = None, profile: str | None = None) -> Self:
        """A handle that serves one user, sharing this module's tools and memory and nothing that is a user's.

        Called on a handle it is the shared module's: nothing that was learnt for one user goes to another. It reads
        the store, which on an event loop a thread should do; `Served` sees to that.

        Args:
            user_id: whose memory is recalled from.
            persona: the persona to act by. Default: an initial one if `profile` is given, else the newest in the
                memory store, else an initial one.
            profile: P^u of an initial persona; not looked at beside `persona`. Default: the newest in the memory store.

        Raises:
            InputError: if the id is empty or no text that could be stored, or another argument is no persona or text;
                if KNNFewShot has compiled the module, whose answers are then another handle's.
            StoreError: if the store cannot be read.
        """
        if not isinstance(user_id, str) or not user_id.strip() or LONE_SURROGATE.search(user_id):
            raise InputError(f"user_id must be text that can be stored, and not empty, but got {user_id!r}")
        if profile is not None and not isinstance(profile, str):
            raise InputError(f"profile must be text, but got {profile!r}")
        _check_persona(persona)
        if self._origin is not None:
            # From the shared module, not from another user's handle: its demonstrations and its past are that user's.
            handle: Self = self._origin.module.for_user(user_id, persona=persona, profile=profile)
            return handle
        if persona is None and profile is None and self.memory is not None:
            persona = self.memory.persona(user_id)
            profile = None if persona else self.memory.profile(user_id)
        persona = copy.copy(persona) if persona else self.initial_persona(profile)
        return self._serve(_origin=Origin(self), user_id=user_id, persona=persona)

    def initial_persona(self, profile: str | None = None) -> Persona:
        """Version 0 of a user's persona, with the tools that exist."""
        return initial_persona(profile, self.tool_names, self.persona_template, self._no_tools)

    def with_persona(self, persona: Persona) -> Self:
        """This handle's user under another persona.

        Raises:
            InputError: if it is none, and as `for_user`.
        """
        if persona is None:
            raise InputError("persona must be a Persona, but got None")
        _check_persona(persona)
        return self._serve(persona=copy.copy(persona))

    def as_of(self, before: Interaction | Position | None) -> Self:
        """This handle with a memory that holds only what came before: `recall` sees nothing at or after it.

        Raises:
            InputError: if it is no place in a history. An interaction without an ordinal raises when it is used.
        """
        _check_place("before", before)
        return self._serve(_before=before)

    def since(self, oldest: Interaction | Position | None) -> Self:
        """This handle with a memory that holds nothing older than `oldest`, which itself it holds.

        The bound stays with every handle that is made of this one, `as_of` and an alignment's included; None takes
        it away. Persona and profile stay as they are: they should have been learnt of the same part of the history.

        Raises:
            InputError: as `as_of`.
        """
        _check_place("oldest", oldest)
        return self._serve(_since=oldest)

    def interactions(self) -> list[Interaction]:
        """This user's interactions that this handle's memory holds, from `since` to `as_of`; oldest first.

        Raises:
            PersonaAgentError: if there is no memory, or no user is served.
            InputError: if a bound is an interaction without an ordinal.
            StoreError: if the store cannot be read.
        """
        history = self._memory().interactions(self._user())
        rows = visible_rows(history, self._before, self._since)
        return history[rows.start : rows.stop]

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """What every call of a handle runs in: its persona in effect, and its streams those of the shared module."""
        text = self.persona.text if self.persona else ""
        shared = self._origin.module if self._origin else None
        with acting_as(text), streaming_as(shared, cast(dspy.Module, self)):
            yield

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools that an LM may choose from, without ReAct's `finish`."""
        raise NotImplementedError

    def inputs_of(self, example: dspy.Example) -> dict[str, Any]:
        """The inputs that an example has for one call."""
        raise NotImplementedError

    def record(
        self,
        query: str,
        response: str,
        *,
        id: str | None = None,
        timestamp: str | datetime | None = None,
        text: str = "",
    ) -> Interaction:
        """Remember what this user really answered.

        Args:
            query: the question as asked.
            response: the user's true response, not the agent's prediction.
            id: unique for this user; give your own so that a retry records nothing twice. Default: random.
            timestamp: ISO 8601 or a `datetime`. Default: the time when it is first recorded.
            text: what retrieval compares. Default: the query.

        Returns:
            The interaction as stored; it is durable when this returns.

        Raises:
            PersonaAgentError: if there is no memory, or no user is served.
            InputError: on an empty query, a response that is no text, or a wrong timestamp.
            StoreError: if this id is there with other content, or the store cannot be written.
        """
        memory = self._memory()
        stamp = "" if timestamp is None else normalise_timestamp(timestamp)
        new = Interaction(self._user(), id or uuid4().hex, query, response, stamp, text=text)
        # The store fills the time in for what is new: a retry with the same id is not another interaction.
        return memory.add([new], now=datetime.now(UTC) if timestamp is None else None)[0]

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """As DSPy's; beside the persona stands whose it is."""
        module: Any = super()
        state: dict[str, Any] = module.dump_state(json_mode=json_mode)
        if self.persona is not None:
            state["persona"] = {**state["persona"], "user_id": self.user_id}
        return state

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """Take over a saved program's state: its persona and demonstrations.

        Raises:
            InputError: if the file was saved from a handle of another user, or of a user and this is the shared
                module, or the other way round.
        """
        module: Any = super()
        if self.persona is None and "persona" in state:
            raise InputError(
                "the saved program is one user's: load it into what for_user(user_id) returns, not into the shared one"
            )
        if self.persona is not None and "persona" not in state:
            raise InputError(
                f"the saved program holds no persona (it has {', '.join(sorted(state)) or 'nothing'}); "
                f"save a handle made by for_user, or an aligned one"
            )
        saved = state.get("persona")
        whose = saved.get("user_id") if isinstance(saved, dict) else None
        if whose is not None and whose != self.user_id:
            raise InputError(
                f"the saved program is {whose!r}'s, and this handle serves {self.user_id!r}: load it into what "
                f"for_user({whose!r}) returns; another user's persona can be given by with_persona"
            )
        module.load_state(state, **options)

    def _recall_session(self) -> RecallSession:
        user_id = self._user()
        if self._view is None and self.memory is not None and self.memories > 0:
            # Kept with the handle: the store holds it weakly, and would read the history anew for each question.
            self._view = self.memory.episodic(user_id)
        return RecallSession(self._view, self.memories, self._before, self._since, user_id=user_id)

    def _memory(self) -> MemoryStore:
        if self.memory is None:
            raise PersonaAgentError("this agent has no memory: make it with memory=MemoryStore(...)")
        return self.memory

    def _user(self) -> str:
        if self.user_id is None:
            raise PersonaAgentError(
                "this agent serves no user yet: call agent.for_user(user_id) and use what it returns"
            )
        return self.user_id


def own(module: Module) -> Module:
    """The module with parts of its own, so that `load`, optimizers and what it keeps of a user reach one user only.

    Its own are: modules, at any depth and in lists and dictionaries, and whatever is found twice is one thing in the
    copy, too; other DSPy parameters; lists, dictionaries, sets and `dspy.History`; methods and tools of such modules.
    All else, such as retrievers, clients, objects of other classes and functions, those within functions that keep a
    module included, is shared. Handles inside keep their users.
    """
    copied: Module = _Copy()(module)
    return copied


def modules_in(module: dspy.Module) -> Iterator[dspy.Module]:
    """The module and all modules in it that `own` copies as parts of it, each once, from the outside in."""
    seen: set[int] = set()
    waiting: deque[Any] = deque([module])
    while waiting:
        value = waiting.popleft()
        parts: Any = ()
        if isinstance(value, dspy.Module):
            parts = [part for name, part in vars(value).items() if name not in _apart(value)]
        elif isinstance(value, list | tuple | deque) and len(value) <= MAX_PARTS:
            parts = value
        elif isinstance(value, dict) and len(value) <= MAX_PARTS:
            parts = value.values()
        if (parts or isinstance(value, dspy.Module)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dspy.Module):
                yield value
            waiting.extend(parts)


def defines(module: object, method: str) -> bool:
    """Whether a module has a method, such as `forward`."""
    # Not by getattr: DSPy warns of a forward that is taken from a module and not called by it.
    return hasattr(type(module), method) or method in getattr(module, "__dict__", {})


def shallow(module: Module) -> Module:
    """A shallow copy with a history of its own. A method that was set on the module is the copy's."""
    copied = copy.copy(module)
    # A program of the user's may keep a `dspy.History` under DSPy's own name.
    copied.history = [] if isinstance(module.history, list) else module.history
    copied.callbacks = list(module.callbacks)
    for name, value in vars(copied).items():
        if isinstance(value, MethodType) and value.__self__ is module:
            # DSPy's optimizers leave `forward` behind on what they have run, bound to it.
            vars(copied)[name] = MethodType(value.__func__, copied)
    return copied


def _apart(module: dspy.Module) -> frozenset[str]:
    """Names of attributes that hold what has been asked, and no parts of the module."""
    apart = _PREDICTS if isinstance(module, dspy.Predict) else _DSPYS
    return apart if isinstance(module.history, list) else apart - {"history"}


class _Copy:
    """One copying: what has been copied is known by its id, and copied once."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) in self._made:
            return self._made[id(value)]
        copier = self._copier(value)
        return copier(value) if copier else value

    def _copier(self, value: Any) -> Callable[[Any], Any] | None:
        if isinstance(value, dspy.Module):
            return self._module
        for kind, copier in _CONTAINERS.items():
            if isinstance(value, kind):
                return getattr(self, copier)
        if isinstance(value, MethodType | functools.partial | dspy.Tool):
            return self._callable
        if isinstance(value, Parameter | dspy.History):
            return self._other
        return None

    def _module(self, module: Any) -> Any:
        if isinstance(module, ServesUsers):
            copied = self._made[id(module)] = module._handle()
            return copied
        copied = self._made[id(module)] = shallow(module)
        if isinstance(copied, dspy.Predict):
            copied.demos, copied.traces, copied.train = list(module.demos), [], []
        for name, part in list(vars(module).items()):
            if name not in _apart(module):
                vars(copied)[name] = self(part)
        return copied

    def _list(self, value: Any) -> Any:
        return self._filled(value, enumerate(value))

    def _dict(self, value: Any) -> Any:
        return self._filled(value, list(value.items()))

    def _filled(self, value: Any, parts: Iterable[tuple[Any, Any]]) -> Any:
        """A copy of a list or dictionary whose parts are one's own, where it can be copied and written."""
        try:
            copied = self._made[id(value)] = copy.copy(value)
            for place, part in parts if len(value) <= MAX_PARTS else ():
                mine = self(part)
                if mine is not part:
                    copied[place] = mine
        except (TypeError, AttributeError, NotImplementedError):  # a class that is not to be changed
            copied = self._made[id(value)] = value
        return copied

    def _tuple(self, value: Any) -> Any:
        made = getattr(type(value), "_make", tuple if type(value) is tuple else None)  # a named one's is its own
        return made(map(self, value)) if made and len(value) <= MAX_PARTS else value

    def _set(self, value: Any) -> Any:
        return self._filled(value, ())

    def _callable(self, value: Any) -> Any:
        if isinstance(value, MethodType):
            ours = isinstance(value.__self__, dspy.Module)
            return MethodType(value.__func__, self(value.__self__)) if ours else value
        changed = self(value.func)
        if changed is value.func:
            return value
        if isinstance(value, dspy.Tool):
            copied = value.model_copy(update={"func": changed})
        else:
            copied = functools.partial(changed, *value.args, **value.keywords)
        self._made[id(value)] = copied
        return copied

    def _other(self, value: Any) -> Any:
        if isinstance(value, dspy.History):
            copied = value.model_copy(update={"messages": self(value.messages)})
        else:
            copied = copy.copy(value)
        self._made[id(value)] = copied
        return copied


_CONTAINERS: dict[type, str] = {list: "_list", deque: "_list", dict: "_dict", set: "_set", tuple: "_tuple"}


def check_count(name: str, value: int, least: int) -> None:
    """See that a setting is a whole number.

    Raises:
        InputError: with the rule and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer from {least}, but got {value!r}")


def _check_persona(persona: object) -> None:
    if persona is not None and not isinstance(persona, Persona):
        raise InputError(f"persona must be a Persona, such as Persona('...'), but got {persona!r}")


def _check_forward(module: Any) -> None:
    """See that a module answers by itself, and not by another that its `forward` holds, as KNNFewShot leaves it."""
    forward = vars(module).get("forward")
    cells = getattr(getattr(forward, "__func__", forward), "__closure__", None) or ()
    if any(_holds_another(module, cell) for cell in cells):
        raise InputError(
            "the program answers by another one that its forward holds, as KNNFewShot leaves it, so that no other "
            "user, persona or memory would reach it: compile the plain program, and personalise what comes out"
        )


def _holds_another(module: Any, cell: CellType) -> bool:
    try:
        held = cell.cell_contents
    except ValueError:  # a name that is bound later
        return False
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else (held,)
    modules = (getattr(part, "__self__", part) for part in parts)
    return any(isinstance(one, dspy.Module) and one is not module for one in modules)


def _check_place(name: str, place: object) -> None:
    if place is not None and not isinstance(place, Interaction | Position):
        raise InputError(f"{name} must be an Interaction, a Position or None, but got {place!r}")
