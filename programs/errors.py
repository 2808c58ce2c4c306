"""Errors that a person can act on: what is wrong, where, and what to do."""


class PersonaAgentError(Exception):
    """Base class of the errors that this package raises on purpose, but for those of LM calls: DSPy's `LMError`."""


class InputError(PersonaAgentError, ValueError):
    """Something handed in is wrong: a file, a field, a setting. Scripts print it and exit with code 2."""


class StoreError(PersonaAgentError):
    """The memory store, or another file that is kept, cannot be opened, read or written as asked.

    But for `DamagedStoreError`, nothing that was stored is lost.
    """


class DamagedStoreError(StoreError):
    """What the memory store's file holds is not what was recorded."""


class EncoderError(PersonaAgentError):
    """A text encoder cannot be had, or returned vectors that are not usable."""


class BudgetError(PersonaAgentError):
    """A call would exceed the cap on LM calls. It was not sent.

    From an LM it comes as the cause of DSPy's `LMUnexpectedError`.
    """
