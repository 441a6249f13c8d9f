"""Where the daemon's log events go: text or JSON lines, from a level up (spec 11).

Only the daemon uses this; whoever embeds ccmproxy observes :mod:`twisted.logger` as they like.
"""

from __future__ import annotations

import sys
from typing import IO, Any

from twisted.logger import FileLogObserver as _FileLogObserver
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEventAsClassicLogText,
    jsonFileLogObserver,
)
from twisted.python.logfile import LogFile


def daemon_observer(path: str | None, level: str, form: str) -> ILogObserver:
    """An observer that writes events of ``level`` and above to ``path``, or to standard output for None or ``-``.

    ``level``: ``debug``, ``info``, ``warn``, ``error``, ``critical``. ``form``: ``text`` or ``json`` (one object a
    line, with every field of the event). A file is rotated when it reaches 1 MB, as twistd does.
    """
    out: IO[Any] = sys.stdout if path in (None, "-") else LogFile.fromFullPath(path)
    observer = jsonFileLogObserver(out, "") if form == "json" else _FileLogObserver(out, _as_line)
    return FilteringLogObserver(observer, [LogLevelFilterPredicate(LogLevel.lookupByName(level))])


def _as_line(event: LogEvent) -> str | None:
    """One line an event; control characters of a peer cannot begin another one."""
    if "log_failure" in event:
        return formatEventAsClassicLogText(event)
    text = eventAsText(event, includeSystem=True)
    return text.replace("\r", "\\r").replace("\n", "\\n") + "\n" if text else None
