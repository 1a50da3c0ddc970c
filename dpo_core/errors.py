"""What the core says when something is for the user to mend. Printed without a traceback."""


class CoreError(Exception):
    """Base of everything the core raises on purpose. The message says what happened, what was kept, what to do."""


class SettingsError(CoreError):
    """pairloop.toml is missing, malformed, or has a value or key it should not have."""


class WorkspaceError(CoreError):
    """The folder is not a workspace, or cannot become one."""


class LoginNeededError(CoreError):
    """Nobody is logged in where somebody must be."""


class ModelError(CoreError):
    """A model, its tokenizer or its chat template cannot be used."""


class RunError(CoreError):
    """A run cannot be started or carried out as asked."""


class DivergedError(RunError):
    """Training came to numbers that are none (NaN, infinity). The weights after `last_good` steps were still sound."""

    def __init__(self, message: str, *, last_good: int) -> None:
        super().__init__(message)
        self.last_good = last_good


class MemoryRefusedError(RunError):
    """A training would find too little memory here. It can be asked for all the same."""


class GateError(RunError):
    """A checkpoint does not show what [gate] of pairloop.toml asks. It can be promoted all the same, on record."""


class RunCancelled(CoreError):  # noqa: N818 - a request that was followed, not an error
    """Somebody pressed Cancel."""
