"""The one error that ends a task with a message and no traceback."""

from invoke.exceptions import Exit


class UserError(Exit):
    """Something the user can put right: says where, what was found, what was wanted, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message=message, code=1)

    def __str__(self) -> str:
        return str(self.message)
