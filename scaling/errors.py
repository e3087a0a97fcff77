"""Errors that a user can cause, each one clear sentence."""


class UserError(ValueError):
    """The user's input is wrong: the message names the field, the value and what would be right.

    The command line prints the message alone and exits with code 2.
    """
