"""The errors that end in one line: what a person can put right."""


class UserError(ValueError):
    """What a person can put right. A command shows one line: what is wrong, where, and the next step."""


class ParamsError(UserError):
    """A value of params.yaml that has to change; found before any work."""
