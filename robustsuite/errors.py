"""One root exception and a few leaves; every message shows the offending value and the way out."""


class RobustsuiteError(Exception):
    """Root of every error that the suite raises on purpose."""


class RequestError(RobustsuiteError, ValueError):
    """What was asked for is wrong; nothing was started (exit code 2)."""


class StorageError(RobustsuiteError, OSError):
    """The disk refuses what has to be kept: it is full, read-only or gone; what was finished stands (exit code 1)."""


class UntrustedFileError(RequestError):
    """A file was refused before anything in it could run."""


class BudgetError(RobustsuiteError):
    """An artefact or an oracle call goes over the adversary's budget."""


class NotApplicableError(RobustsuiteError):
    """The scenario needs something that this victim does not have; the message names it."""


class ModelError(RobustsuiteError, ValueError):
    """A model returned something that cannot be judged."""


class TamperingError(RobustsuiteError):
    """Foreign code wrote to data or weights that others use; they were put back, and nothing was kept."""
