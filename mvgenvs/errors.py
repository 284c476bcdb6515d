"""The one exception for mistakes that a user can correct; scripts print it as one sentence and exit with code 2."""


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do."""
