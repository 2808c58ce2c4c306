"""Errors that a person can act on: what is wrong, where, and what to do."""


class PersonaAgentError(Exception):
    """Base class of every error this package raises on purpose."""


class InputError(PersonaAgentError, ValueError):
    """Something handed in is wrong: a file, a field, a setting. Scripts print it and exit with code 2."""


class StoreError(PersonaAgentError):
    """The memory store cannot be opened, read or written as asked. Nothing that was stored is lost."""


class DamagedStoreError(StoreError):
    """What the memory store's file holds is not what was recorded."""


class EncoderError(PersonaAgentError):
    """A text encoder cannot be had, or returned vectors that are not usable."""


class BudgetError(PersonaAgentError):
    """A call would exceed the cap on LM calls. It was not sent."""
