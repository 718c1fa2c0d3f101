"""What can go wrong, as one tree. Each text says what was wrong and how to mend it.

RowcastError
├── SettingsError        the settings cannot be used
├── DatabaseError        the database cannot be used as it is
│   ├── MigrationError   the schema cannot be brought to this version
│   └── UninstallError   what was added cannot be taken out now
├── WatchError           a table cannot be captured
├── ListenError          no connections can be taken where the settings say
└── in ``rowcast.dev``: AccountError, BinariesNotFoundError, PostgresError: no Postgres of our own can be had
"""


class RowcastError(Exception):
    """Base of every error that Rowcast raises on purpose."""


class SettingsError(RowcastError):
    """The settings cannot be used. The text names every fault."""


class DatabaseError(RowcastError):
    """The database cannot be used as it is."""


class MigrationError(DatabaseError):
    """The schema cannot be brought to this version."""


class UninstallError(DatabaseError):
    """What was added to the database cannot be taken out now."""


class ListenError(RowcastError):
    """No connections can be taken where the settings say."""


class WatchError(RowcastError):
    """A table cannot be captured."""
