"""What the store says when something is for the user to mend. Printed without a traceback."""


class StoreError(Exception):
    """Base of everything the store raises on purpose. The message says what happened, what was kept, what to do."""


class DatabaseError(StoreError):
    """The database cannot be opened, read or written."""


class NewerWorkspaceError(DatabaseError):
    """The database was written by a newer pairloop."""


class ColumnsError(StoreError):
    """A row has not the columns that it should have."""


class ImportFileError(StoreError):
    """A file to import is not what it should be. Nothing was imported."""


class SnapshotError(StoreError):
    """A snapshot or an export cannot be made from what there is."""


class UnknownRecordError(StoreError):
    """A name or number that the database does not have."""


class StateError(StoreError):
    """The record exists, but is not in a state that allows this."""


class NotAllowedError(StoreError):
    """Something that only a researcher may do. Nothing was changed."""


class LoginError(StoreError):
    """A name and passcode, or an invite, that let nobody in."""


class ThrottledError(LoginError):
    """Too many wrong passcodes for one name. `seconds` until the next may be tried."""

    def __init__(self, message: str, *, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class PairChangedError(StateError):
    """The verdict is for a pair that this annotator cannot judge (any more). Nothing was written."""
