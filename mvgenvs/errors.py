"""The one exception for mistakes that a user can correct; scripts print it as one sentence and exit with code 2."""


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do.

    It may quote names from files of others: what cannot be printed, a new line too, is written as its escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))
