"""What a user can cause, told in one sentence."""


class UserError(ValueError):
    """The user's input is wrong: the message names the field, the value and what would be right."""
