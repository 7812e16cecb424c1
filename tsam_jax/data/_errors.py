"""The error of all readers."""


class DataError(ValueError):
    """Data that cannot be used as they are; the message names the file and the row or image."""
