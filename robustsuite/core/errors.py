"""One root exception and a few leaves; every message shows the offending value and the way out."""


class RobustsuiteError(Exception):
    """Root of every error that the suite raises on purpose.

    Args:
        message: What is wrong and the way out, for people.
        name: The option, setting or field that it is about, for code that looks for its place; None where it is none.
    """

    def __init__(self, message: str = "", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class RequestError(RobustsuiteError, ValueError):
    """What was asked for is wrong; nothing was started (exit code 2)."""


class StorageError(RobustsuiteError, OSError):
    """The disk refuses what has to be kept: it is full, read-only or gone; what was finished stands (exit code 1)."""


class UntrustedFileError(RequestError):
    """A file was refused before anything in it could run."""


class UntrustedCodeError(RequestError):
    """Code that a suite names and the user does not stand behind was refused; nothing of it was run."""


class UnknownPluginError(RequestError):
    """No plug-in of this name is registered; a file or a package that was not loaded may hold it."""


class BudgetError(RobustsuiteError):
    """An artefact or an oracle call goes over the adversary's budget."""


class NotApplicableError(RobustsuiteError):
    """The scenario needs something that this victim does not have; `name` says what."""


class ModelError(RobustsuiteError, ValueError):
    """A model returned something that cannot be judged."""


class TamperingError(RobustsuiteError):
    """Foreign code wrote to data or weights that others use; they were put back, and nothing was kept."""
