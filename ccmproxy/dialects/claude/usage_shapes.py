"""The newer shapes of Claude's usage answer, brought into the usual one (spec 3.5).

Usual: an object per window, ``five_hour: {utilization, resets_at}``, ``seven_day``, ``seven_day_<model family>``. Newer
answers also have, or have only, a list ``limits`` of ``{kind, percent, resets_at, scope}`` (``id`` and ``utilization``
in some), and some write numbers as texts. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ccmproxy.dialects.json_values import number, text

#: Kinds of entries in ``limits``, and the windows that they are.
_WINDOWS = {"session": "five_hour", "weekly_all": "seven_day"}
#: Kind of an entry for some models only; ``scope`` says which.
_SCOPED = "weekly_scoped"
#: A longer name of a model family is cut (characters).
_LONGEST_FAMILY = 60
_SEPARATORS = re.compile(r"[^a-z0-9]+")
#: As many entries are read.
_MOST_ENTRIES = 64


def usual_shape(answer: Mapping[str, object]) -> dict[str, object]:
    """Return the answer with one object per window. A window that has such an object keeps it; the others are taken
    from the list ``limits``."""
    usual = {name: _with_figure(value) for name, value in answer.items()}
    for name, window in _listed_windows(answer.get("limits")):
        if not isinstance(usual.get(name), dict):
            usual[name] = window
    return usual


def _with_figure(window: object) -> object:
    """Return a window with its utilization as a number; anything else as it is."""
    if not isinstance(window, dict) or "utilization" not in window:
        return window
    return {**window, "utilization": figure(window["utilization"])}


def figure(value: object) -> float | None:
    """Return a finite number that is written as a number or as a text; None for anything else."""
    if isinstance(value, str) and len(value) <= 20 and value.isascii():
        try:
            value = float(value)
        except ValueError:
            return None
    return number(value)


def _listed_windows(limits: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the windows in the list ``limits``, by their usual names."""
    for entry in limits[:_MOST_ENTRIES] if isinstance(limits, list) else ():
        if not isinstance(entry, dict):
            continue
        kind = text(entry.get("kind")) or text(entry.get("id")) or ""
        family = _scoped_family(entry.get("scope")) if kind == _SCOPED else None
        name = f"seven_day_{family}" if family else _WINDOWS.get(kind)
        used = figure(entry.get("percent"))
        if used is None:
            used = figure(entry.get("utilization"))
        if name is not None and used is not None:
            yield name, {"utilization": used, "resets_at": entry.get("resets_at")}


def _scoped_family(scope: object) -> str | None:
    """Return the model family that a scope names, as it stands in names of windows; None if it names none.

    The scope is a text, or an object whose ``model`` is a text or an object with a ``display_name``.
    """
    model = scope.get("model") if isinstance(scope, dict) else scope
    name = text(model.get("display_name")) if isinstance(model, dict) else text(model)
    return _SEPARATORS.sub("_", name[:_LONGEST_FAMILY].lower()).strip("_") or None if name else None
