"""The named errors of this project; everything else is a plain ValueError, TypeError or RuntimeError."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint is unreadable, or its entries do not fit the configuration; the message lists all of them."""


class BundleError(RuntimeError):
    """A bundle is incomplete, changed, mixed or newer than this package; the message says what to do."""


class EncodedImageError(ValueError):
    """An encoded image is of another encoder, cut off or changed; the message says what to do."""


class SessionStateError(ValueError):
    """A saved session is damaged, or of another bundle or picture; the message says which entry, or what to do."""


class OperatorLibraryError(RuntimeError):
    """The operator library is missing or does not load; the message says what to do."""


class MissingPackageError(RuntimeError):
    """A package of an extra is not installed; the message says what needs it and what to install."""


class ExportMismatchError(RuntimeError):
    """The exported graphs do not agree with PyTorch; carries the parity report as `report`."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class PictureError(ValueError):
    """A file is no picture that can be read, is cut off, or too large; the message names it and says what to do."""


class PictureWarning(UserWarning):
    """How a picture was read that could be meant in several ways; the message names the file."""


class DatabaseError(RuntimeError):
    """The database of annotations cannot be opened, read or written.

    Nothing of the change that failed is kept, all that was kept before is there; the message says what to do.
    """


class DatabaseFullError(DatabaseError):
    """The disk of the database is full."""


class DatabaseLostError(DatabaseError):
    """The database is not there any more: its file is gone or its server does not answer."""


class ConflictError(RuntimeError):
    """Somebody else has written meanwhile; carries what is there now as `current`, None where there is nothing."""

    def __init__(self, message: str, current: object = None) -> None:
        super().__init__(message)
        self.current = current
