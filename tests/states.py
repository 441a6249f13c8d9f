"""The state of one credential, that tests give inputs to."""

from __future__ import annotations

from ccmproxy.state.availability import Availability, Caps, CredentialState, availability
from ccmproxy.state.inputs import Effect, Input, Interrupt, Log, Notify, TokenAvailable
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window
from ccmproxy.state.transitions import transition

NOW = 1_800_000_000.0
HOUR = 3600.0
CAPS = Caps()


def said(short: float | None = None, weekly: float | None = None, hours: float = 2.0) -> LimitsUpdate:
    """An answer that mentions windows, both with a reset in some hours."""
    return LimitsUpdate(
        None if short is None else Window(short, NOW + hours * HOUR, SHORT_WINDOW),
        None if weekly is None else Window(weekly, NOW + hours * HOUR, WEEKLY_WINDOW),
    )


class Credential:
    """A state that inputs are given to, at times, and what was to be done about them."""

    def __init__(self, caps: Caps = CAPS, loaded: bool = True) -> None:
        self.caps = caps
        self.state = CredentialState()
        self.effects: list[Effect] = []
        if loaded:
            self.give(TokenAvailable(1.0))

    def give(self, *events: Input, at: float = NOW) -> list[Effect]:
        """The effects of ``events`` at that time."""
        self.effects = []
        for event in events:
            self.state, effects = transition(self.state, event, at, self.caps)
            self.effects.extend(effects)
        return self.effects

    def at(self, now: float = NOW, model: str | None = None) -> Availability:
        """Availability at that time."""
        return availability(self.state, self.caps, now, model)

    @property
    def interrupts(self) -> list[Interrupt]:
        """Interrupts among the effects of the last ``give``."""
        return [effect for effect in self.effects if isinstance(effect, Interrupt)]

    @property
    def notified(self) -> bool:
        """Whether the last ``give`` notified."""
        return Notify() in self.effects

    @property
    def lines(self) -> list[str]:
        """Log lines of the last ``give``."""
        return [effect.message for effect in self.effects if isinstance(effect, Log)]
