"""Rowcast: row changes from Postgres to WebSocket channels."""

__version__ = "0.1.0"
