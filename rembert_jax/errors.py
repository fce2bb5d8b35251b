"""The base of every error that the package raises on purpose."""


class RemBertError(ValueError):
    """Input that the package refuses; the message names the thing, what was found, and what to change.

    `train.py` shows it as one line. Any other exception is a mistake of the program and keeps its traceback.
    """
