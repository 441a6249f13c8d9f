"""Rate-limit windows: what an upstream says of an account, merged into what is known (spec 4.7, 5).

Pure values and rules. Utilization is in percent of a window (0-100, may exceed), times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

#: Length of the short window of both providers where the upstream does not say (seconds).
SHORT_WINDOW = 5 * 3600.0
#: Length of the weekly window where the upstream does not say (seconds).
WEEKLY_WINDOW = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Window:
    """One rate-limit window. ``utilization`` None = never heard of; ``resets_at`` 0 = unknown."""

    utilization: float | None = None
    resets_at: float = 0.0
    length: float = 0.0


EMPTY = Window()
_NONE: Mapping[str, Window] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """All that is known of an account's windows.

    ``models``: windows that hold for one model family only, by the family's name (``opus``).
    """

    short: Window = EMPTY
    weekly: Window = EMPTY
    models: Mapping[str, Window] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True, slots=True)
class LimitsUpdate:
    """What one answer of the upstream said. A window that it did not mention is None.

    ``rejected_until``: the answer says that the account is used up, until then (0 = not said to be).
    ``model_rejections``: model family -> until when its own window is used up.
    """

    short: Window | None = None
    weekly: Window | None = None
    models: Mapping[str, Window] = field(default_factory=lambda: _NONE)
    rejected_until: float = 0.0
    model_rejections: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def has_data(self) -> bool:
        """True if the answer mentioned any window: only then does it put off polling (spec 4.7)."""
        return self.short is not None or self.weekly is not None or bool(self.models)
