"""Faults, and when they occur: named by a request, queued by a test, or drawn from a seeded scenario. Pure.

A fault is written ``NAME`` or ``NAME;key=value;…``: in a header ``x-simulate``, in a prompt as ``[[simulate:…]]``, in a
test. Names and effects: :data:`FAULTS`; a bare number such as ``529`` is a response with that status. ``times=N``
limits the fault to N times in the same conversation, so that a client's retry succeeds.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

#: Kind of request. ``turn``: model output, whatever the provider calls its endpoint. ``websocket``: the handshake of a
#: WebSocket; ``warm_up``: a turn that generates nothing.
Endpoint = Literal[
    "turn", "count_tokens", "models", "token", "usage", "profile", "websocket", "warm_up", "other"
]

#: Responses that replace the real one; their format is up to the dialect.
ANSWERS = {
    "rate_limited": "429 without quota headers; retry_after=seconds if wanted",
    "exhausted": "429 with the headers of a used-up window (window=five_hour)",
    "overloaded": "529",
    "server_error": "500",
    "unavailable": "503; retry_after=seconds if wanted",
    "bad_gateway": "502 with an HTML page, as proxies in between make it",
    "unauthorized": "401",
    "revoked": "403, the token was revoked",
    "forbidden": "403 for another reason",
    "too_long": "400, the prompt is too long",
    "too_large": "413",
    "html": "200 with an HTML page",
    "empty": "200 with nothing",
    "nonsense": "200 with JSON that means something else",
    "broken_json": "200 with JSON that breaks off",
    "redirect": "307 to itself",
    "invalid_grant": "400 as a token endpoint refuses a refresh token",
    "hang": "no answer, ever; the request has no effect (with stall;at=before_head it has)",
    "status": "the answer with code=NNN, error type and message to match",
}

#: The real response, with a fault in its delivery.
DELIVERIES = {
    "none": "nothing at all; keeps a scenario away from this request",
    "slow": "seconds=5 before the head",
    "slow_first_token": "the head at once, seconds=5 before the body",
    "stall": "at=before_head|after_head|mid|before_stop, seconds=0 (0 = for ever), then goes on",
    "cut": "the connection ends at=before_head|after_head|mid|before_stop, how=rst|fin; seconds=0 before no head",
    "truncated": "the stream ends properly, but without its last size=1 events",
    "error_first": "200, and an error event before any other (type=overloaded_error)",
    "error_mid": "an error event in the middle of the stream, then its end (type=overloaded_error)",
    "pieces": "in pieces of size=1 bytes, each in a reactor turn of its own",
    "random_pieces": "in pieces of random size up to size=64 bytes, each in a reactor turn of its own",
    "gzip": "compressed, whether asked for or not",
    "pings": "size=3 pings before every event",
    "garbage": "bytes that are not HTTP",
    "half_head": "half of a response head, then the end",
    "endless_head": "a header field that does not end",
    "long_content_length": "a Content-Length beyond the body, then the end",
    "short_content_length": "a Content-Length short of the body",
    "bad_chunk": "a chunk size that is not a number, in the middle of the body",
    "no_last_chunk": "a chunked body without its last chunk, then the end",
}

#: Faults of a WebSocket; requests without one never meet them.
MESSAGES = {
    "close": "the closing handshake with code=1011, at=before_head|mid|before_stop of a turn",
    "binary_frame": "one event as a binary message",
    "invalid_event": "an event that is not JSON",
    "huge_message": "a message of size=16777216 bytes before the others",
    "early_text": "a message together with the end of the opening handshake",
    "connection_limit": "an error event: the connection has lived for too long",
}

#: All faults: name -> effect.
FAULTS: Mapping[str, str] = {**ANSWERS, **DELIVERIES, **MESSAGES}

_STATUS_NAMES = {
    401: "unauthorized",
    403: "revoked",
    413: "too_large",
    429: "rate_limited",
    500: "server_error",
    502: "bad_gateway",
    503: "unavailable",
    529: "overloaded",
}

_PLACES = frozenset({"before_head", "after_head", "mid", "before_stop"})
_REMEMBERED_CONVERSATIONS = 1000
_DEFAULT_DELAY = 5.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Which fields matter depends on ``name`` (see FAULTS); ``seconds`` is None where not given."""

    name: str
    at: str = "mid"
    how: str = "rst"
    seconds: float | None = None
    retry_after: int | None = None
    window: str = "five_hour"
    type: str = "overloaded_error"
    code: int = 500
    size: int | None = None
    times: int = 0

    @property
    def delay(self) -> float:
        """Duration of a delay in seconds: ``seconds``, or 5 by default."""
        return _DEFAULT_DELAY if self.seconds is None else self.seconds

    @property
    def is_answer(self) -> bool:
        """Whether the fault replaces the real response by another one."""
        return self.name in ANSWERS

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse the written form. Raises ValueError, with a sentence, if it is malformed."""
        name, *settings = (part.strip() for part in text.split(";"))
        if name.isascii() and name.isdigit():
            code = int(name)
            if not 200 <= code <= 599:
                raise ValueError(f"not a final status: {name}")
            fault = cls(_STATUS_NAMES.get(code, "status"), code=code)
        elif name in FAULTS:
            fault = cls(name)
        else:
            raise ValueError(f"unknown fault: {name}")
        for setting in settings:
            key, _, value = setting.partition("=")
            fault = replace(fault, **_setting(key.strip(), value.strip()))
        return fault


def _setting(key: str, value: str) -> dict[str, Any]:
    try:
        match key:
            case "at":
                if value not in _PLACES:
                    raise ValueError
                return {key: value}
            case "how":
                if value not in ("rst", "fin"):
                    raise ValueError
                return {key: value}
            case "seconds":
                seconds = float(value)
                if not 0 <= seconds < 1e6:
                    raise ValueError
                return {key: seconds}
            case "retry_after" | "code" | "size" | "times":
                number = int(value)
                if number < 0 or (key == "size" and number == 0):
                    raise ValueError
                return {key: number}
            case "window" | "type":
                return {key: value}
    except ValueError:
        raise ValueError(f"bad value for {key} of a fault: {value}") from None
    known = ", ".join(each.name for each in fields(Fault) if each.name != "name")
    raise ValueError(f"a fault has no {key}; it has {known}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Random faults: each with the probability (0-1) that a turn meets it."""

    faults: tuple[tuple[float, Fault], ...] = ()

    def draw(self, rng: random.Random) -> Fault | None:
        """The fault of the next request, or None. Draws exactly one number, so that a seed determines the sequence."""
        drawn = rng.random()
        for probability, fault in self.faults:
            if drawn < probability:
                return fault
            drawn -= probability
        return None


#: Scenarios by name, for the command line.
SCENARIOS = {
    "calm": Scenario(),
    "busy": Scenario(
        (
            (0.03, Fault("overloaded")),
            (0.02, Fault("rate_limited")),
            (0.10, Fault("slow_first_token", seconds=2.0)),
        )
    ),
    "rough": Scenario(
        (
            (0.05, Fault("overloaded")),
            (0.03, Fault("rate_limited", retry_after=5)),
            (0.03, Fault("server_error")),
            (0.02, Fault("bad_gateway")),
            (0.03, Fault("cut", at="mid")),
            (0.02, Fault("cut", at="before_head", how="fin")),
            (0.02, Fault("error_first")),
            (0.02, Fault("truncated")),
            (0.03, Fault("stall", at="mid", seconds=5.0)),
            (0.05, Fault("random_pieces")),
        )
    ),
}


@dataclass(slots=True)
class _Rule:
    fault: Fault
    endpoint: Endpoint
    account: str | None
    left: int | None

    def matches(self, endpoint: Endpoint, account: str | None) -> bool:
        return self.endpoint == endpoint and (self.account is None or self.account == account)


@dataclass(slots=True)
class FaultPlan:
    """Chooses the fault of every request.

    The fault that the request itself names takes precedence, then the queued ones, then those that are always on, then
    the scenario, which applies to turns only.
    """

    rng: random.Random
    scenario: Scenario = field(default_factory=Scenario)
    _queued: deque[_Rule] = field(default_factory=deque)
    _always: list[_Rule] = field(default_factory=list)
    _met: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    def next(
        self, fault: Fault | str, *, endpoint: Endpoint = "turn", account: str | None = None, times: int = 1
    ) -> None:
        """Queue ``fault`` for the next ``times`` matching requests. ``account``: name; None matches any."""
        self._queued.append(_Rule(_fault(fault), endpoint, account, times))

    def always(self, fault: Fault | str, *, endpoint: Endpoint = "turn", account: str | None = None) -> None:
        """Apply ``fault`` to every matching request, until :meth:`clear`."""
        self._always.append(_Rule(_fault(fault), endpoint, account, None))

    def clear(self) -> None:
        """Remove the queued faults and those that are always on."""
        self._queued.clear()
        self._always.clear()

    @property
    def pending(self) -> int:
        """Number of queued faults that no request has met yet."""
        return sum(rule.left or 0 for rule in self._queued)

    def choose(
        self, endpoint: Endpoint, account: str | None, wish: str | None = None, conversation: str = ""
    ) -> Fault | None:
        """The fault for this request, or None. Raises ValueError if ``wish`` is malformed."""
        if wish is not None:
            fault = Fault.parse(wish)
            return None if self._worn_out(fault, wish, conversation) else fault
        for rule in self._queued:
            if rule.matches(endpoint, account):
                assert rule.left is not None
                rule.left -= 1
                if not rule.left:
                    self._queued.remove(rule)
                return rule.fault
        for rule in self._always:
            if rule.matches(endpoint, account):
                return rule.fault
        return self.scenario.draw(self.rng) if endpoint == "turn" else None

    def _worn_out(self, fault: Fault, wish: str, conversation: str) -> bool:
        if not fault.times:
            return False
        key = (conversation, wish)
        met = self._met.pop(key, 0) + 1
        self._met[key] = met
        if len(self._met) > _REMEMBERED_CONVERSATIONS:
            self._met.popitem(last=False)
        return met > fault.times


def _fault(fault: Fault | str) -> Fault:
    return fault if isinstance(fault, Fault) else Fault.parse(fault)
