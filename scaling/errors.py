"""Errors that a user can cause, each one clear sentence."""


class UserError(ValueError):
    """The user's input is wrong: the message names the field, the value and what would be right.

    The command line prints the message alone and exits with code 2.
    """


class DataAwayError(UserError):
    """Prepared data is missing or cannot be read just now: a disk that blinks, or a folder that is gone."""


class DataDamagedError(UserError):
    """Prepared data is not what was written; `scaling.data.prepare` makes it again."""
