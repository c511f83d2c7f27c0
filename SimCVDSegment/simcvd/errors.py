"""The one family of errors that a user can cause."""


class SimCVDError(Exception):
    """Carries one sentence for the user: what is wrong and what to do about it."""
