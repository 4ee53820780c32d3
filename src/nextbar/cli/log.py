"""Standard error as lines for people, or as JSON lines for what collects logs."""

from __future__ import annotations

import datetime as dt
import json
import sys
from contextlib import suppress
from typing import Any


class Log:
    """Where messages and progress go; that they cannot be written is no error, because nobody could be told.

    Attributes:
        as_json: Whether each line is a JSON object with ``time`` (UTC), ``level`` and ``message``.
    """

    as_json = False

    def write(self, level: str, message: str, **facts: Any) -> None:
        """Write a line.

        Args:
            level: ``note``, ``progress`` or ``error``.
            message: What a person reads.
            facts: More members of the JSON object.
        """
        line = message
        if self.as_json:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            line = json.dumps({"time": now, "level": level, "message": message, **facts})
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


log = Log()
