"""The log observer of the daemon: writes events from a minimum level up as text or JSON lines (spec 11).

Only the daemon uses it. A program that embeds ccmproxy adds its own observers to :mod:`twisted.logger`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import IO, Any

from twisted.logger import FileLogObserver as _FileLogObserver
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile

#: Control characters and Unicode line ends, which a terminal or a line-oriented reader might interpret.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS_BUT_LAYOUT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


_TWISTED_CLIENT = "twisted.web.client"


def daemon_observer(path: str | None, level: str, form: str) -> ILogObserver:
    """Return an observer that writes events of ``level`` and above to ``path``, or to standard output for None or
    ``-``.

    ``level``: ``debug``, ``info``, ``warn``, ``error``, ``critical``. ``form``: ``text`` or ``json``, which writes one
    object per line with ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``traceback`` if there is one,
    and every field of the event. A file is rotated when it reaches 1 MB, as by twistd.
    """
    out: IO[Any] = sys.stdout if path in (None, "-") else LogFile.fromFullPath(path)
    observer = _FileLogObserver(out, _as_json if form == "json" else _as_line)
    predicate = LogLevelFilterPredicate(LogLevel.lookupByName(level))
    if level == "info":
        # Twisted's HTTP client logs the start and stop of every factory, so two lines for each usage poll.
        predicate.setLogLevelForNamespace(_TWISTED_CLIENT, LogLevel.warn)
    return FilteringLogObserver(observer, [predicate])


def _as_line(event: LogEvent) -> str | None:
    """Format an event as one line, with a traceback indented below it. Control characters are escaped, so that those
    in text from a peer have no effect."""
    if "log_failure" in event:
        return _escape(_CONTROLS_BUT_LAYOUT, formatEventAsClassicLogText(event) or "")
    text = eventAsText(event, includeSystem=True)
    return _escape(_CONTROLS, text) + "\n" if text else None


def _escape(controls: re.Pattern[str], text: str) -> str:
    return controls.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _as_json(event: LogEvent) -> str | None:
    message = formatEvent(event)
    failure = event.get("log_failure")
    if not message and failure is None:
        return None
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(),
        "level": event["log_level"].name,
        "logger": event.get("log_namespace", ""),
        "message": message,
    }
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    # Names with the prefix are internal to the logging system; the other excluded names are for legacy observers.
    for name, value in event.items():
        if not name.startswith("log_") and name not in ("time", "system", "format", "isError", "message"):
            line[name] = value
    return json.dumps(line, default=_as_plain, skipkeys=True) + "\n"


def _as_plain(value: object) -> object:
    """Convert a value of a type that JSON does not support."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
