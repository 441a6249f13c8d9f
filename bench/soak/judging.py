"""Matches what a client saw with what the simulator recorded: is a request lost, doubled, or hung? Pure.

Whatever is not served must be explained by what happened to the request: a fault that the simulator recorded for it, or
an event of the run. Whatever was sent more than once must be explained by a rule, of which each has its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.soak.outcomes import HARMLESS, End, Event, Outcome, Try

#: Events by name: a process of the lender ended by SIGKILL, until its reverse connection was up again; the disk of some
#: accounts full; a 429 or 401 of a simulated account; a refresh refused. That the clock was set explains nothing: all
#: goes on as if it had not been (spec 14).
KILLED, DISK_FULL, BUSY, UNAUTHORIZED, REFRESH_REFUSED = (
    "lender killed",
    "disk full",
    "busy",
    "unauthorized",
    "refresh refused",
)

#: Seconds after the end of an event in which it still explains something.
AFTERMATH: Mapping[str, float] = {
    KILLED: 5.0,
    DISK_FULL: 75.0,  # healed within a minute (spec 12.4)
    BUSY: 60.0,  # the longest rest (spec 12.2)
    REFRESH_REFUSED: 60.0,
    UNAUTHORIZED: 600.0,  # the longest interval between probes of a bad login (spec 12.3)
}

#: Within so many seconds of sending a lost connection allows a repetition (spec 12.3); half a second more for a busy
#: machine.
LOST_AT_ONCE = 1.5
#: Most sends of one request (spec 12.1).
MOST_SENDS = 8

_STREAM_ENDS = frozenset({"broken off"})
#: Fault → what a client may get because of it, besides being served by a repetition.
SHAPES: Mapping[str, frozenset[str]] = {
    "overloaded": frozenset({"refused: 529", "refused: 503"}),  # Claude, Codex
    "server_error": frozenset({"refused: 500"}),
    "unavailable": frozenset({"refused: 503"}),
    "bad_gateway": frozenset({"refused: 502"}),
    "rate_limited": frozenset({"refused: 429", "refused here: busy"}),
    "unauthorized": frozenset(
        {
            "refused: 400",
            "refused: 403",
            "refused here: credential_unavailable",
            "refused here: upstream_auth",
        }
    ),
    "hang": frozenset({"refused here: upstream_timeout"}),
    "stall": _STREAM_ENDS,
    "truncated": _STREAM_ENDS,
    "no_last_chunk": _STREAM_ENDS,
    "bad_chunk": _STREAM_ENDS,
    "long_content_length": _STREAM_ENDS,
    "cut": _STREAM_ENDS | {"refused here: upstream_lost"},
    "garbage": frozenset({"refused here: upstream_malformed"}),
    "half_head": frozenset({"refused here: upstream_malformed", "refused here: upstream_lost"}),
    "error_first": frozenset({"failure in the stream"}),
    "error_mid": frozenset({"failure in the stream"}),
}
#: The statuses of refusals in the name of a daemon.
_OWN_STATUS: Mapping[str, int] = {
    "refused here: upstream_lost": 502,
    "refused here: upstream_malformed": 502,
    "refused here: upstream_timeout": 504,
}
#: A fault may end a WebSocket's turn in each of these ways.
_WEBSOCKET_SHAPES = frozenset({"failure in the stream", "broken off"})
_NO_LOGIN = frozenset({"refused here: credential_unavailable", "refused here: credential_delayed"})
#: This may be told to nobody: no window of the run ever fills.
_USED_UP = "refused here: rate_limited"
#: Event → what a client may get because of it.
EVENT_SHAPES: Mapping[str, frozenset[str]] = {
    KILLED: frozenset(
        {
            "broken off",
            "refused here: upstream_lost",
            "refused here: upstream_unreachable",
            "refused here: credential_unavailable",
        }
    ),
    DISK_FULL: _NO_LOGIN,
    BUSY: frozenset({"refused here: busy"}),
    REFRESH_REFUSED: _NO_LOGIN
    | {"refused here: busy"},  # busy: a borrower's word for a lender that is delayed
    UNAUTHORIZED: frozenset({"refused here: credential_unavailable", "refused: 400", "refused: 403"}),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """``problem``: one of those in :mod:`bench.soak.summary`, or empty. ``why``: the explanation, or what is wrong.

    ``repeats``: the rule of each repetition, in order.
    """

    problem: str
    why: str
    repeats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What the judge knows besides the request. ``events``: of the run. ``lent``: names of the lender's accounts.

    ``borrowers``: users who are served by the lender alone. ``on_disk``: users who are served by an account on the disk
    that is full now and then, and by nothing else.
    """

    events: Sequence[Event] = ()
    lent: frozenset[str] = frozenset()
    borrowers: frozenset[str] = frozenset()
    on_disk: frozenset[str] = frozenset()

    def has(self, name: str, outcome: Outcome) -> bool:
        """Whether an event of this name, or its aftermath, coincides with the request."""
        return any(
            event.name == name
            and event.service in ("", outcome.service)
            and event.began <= outcome.ended
            and outcome.began <= event.ended + AFTERMATH[name]
            for event in self.events
        )


def judge(outcome: Outcome, tries: Sequence[Try], scene: Scene) -> Judgement:
    """Judge one request. ``tries``: all that the simulator recorded of it, in the order of arrival."""
    if outcome.end is End.HUNG:
        return Judgement("hung", f"nothing for {outcome.ended - outcome.began:.0f} s")
    repeats: list[str] = []
    for before, after in pairwise(tries):
        rule = repeat_rule(before, after, outcome, scene, tries[: len(repeats)])
        if rule is None:
            return Judgement(
                "doubled",
                f"sent again {after.at - before.at:.1f} s after {_told(before)}",
                tuple(repeats),
            )
        repeats.append(rule)
    if len(tries) > MOST_SENDS:
        return Judgement("doubled", f"sent {len(tries)} times", tuple(repeats))
    if any(found.state == "answering" and found.endpoint != "websocket" for found in tries):
        return Judgement(
            "running", "its answer goes on at the upstream although the request is over", tuple(repeats)
        )
    if not outcome.reaches and tries:
        return Judgement("doubled", "sent to the upstream, which it is not for", tuple(repeats))
    if outcome.shape == _USED_UP:
        return Judgement("turned away", "told that all is used up, while no account is", tuple(repeats))
    why = explanation(outcome, tries, scene)
    if why is None:
        told = "; ".join(map(_told, tries)) or "the simulator has seen nothing of it"
        return Judgement("lost", f"{outcome.shape}, but {told}", tuple(repeats))
    return Judgement("", why, tuple(repeats))


def repeat_rule(
    before: Try, after: Try, outcome: Outcome, scene: Scene, earlier: Sequence[Try] = ()
) -> str | None:
    """Return the rule by which a request was sent again, or None if there is none.

    ``earlier``: the tries before ``before``.
    """
    elsewhere = after.account != before.account
    if before.account in scene.lent and scene.has(KILLED, outcome):
        return "the reverse connection was lost (spec 7.4)"
    if before.status == 401:
        return "refused token, refreshed or elsewhere (spec 3.4)"
    if before.status == 429 and elsewhere:
        return "429: another account is asked (spec 12.1)"
    if before.fault == "error_first" and elsewhere:
        return "stream began with an error: another account (spec 12.1)"
    # The lender repeats by the same rule, whatever the borrower has done before.
    is_lent = before.account in scene.lent
    is_first = not any(_is_cut(found) and (found.account in scene.lent) is is_lent for found in earlier)
    if (
        _is_cut(before)
        and before.reused
        and is_first
        and not elsewhere
        and after.at - before.at <= LOST_AT_ONCE
    ):
        return "reused connection lost within 1 s (spec 12.3)"
    if elsewhere and any(_asks_others(found) for found in earlier):
        return "no second opinion: the next account is asked (spec 12.1)"
    return None


def _is_cut(found: Try) -> bool:
    return found.fault == "cut" and found.state == "broken"


def _asks_others(found: Try) -> bool:
    """Whether an answer makes others be heard on it, until one is an opinion or none is left."""
    return found.status == 429 or found.fault in ("error_first", "unauthorized")


#: Codes with which a WebSocket is closed in order, after the turn in progress: going away, restart (RFC 6455, spec 10).
_BETWEEN_TURNS = frozenset({1000, 1001, 1012})


def explanation(outcome: Outcome, tries: Sequence[Try], scene: Scene) -> str | None:
    """Return why it is right that the request ended as it did, or None if nothing explains that."""
    shape = outcome.shape
    if outcome.end is End.LEFT:
        return "the client left"
    if not outcome.reaches:
        is_expected = outcome.status == outcome.expected or outcome.error == "too_many_failures"
        return "answered here" if is_expected and outcome.end is End.WHOLE else None
    if shape == "served":
        # Its content is right, so that a fault which does not apply to this kind of answer does not matter.
        return "served" if tries and tries[-1].status in (101, 200) else None
    for found in reversed(tries):
        if found.fault is not None and shape in _shapes(found.fault, outcome, found.account in scene.lent):
            return f"{shape} (fault: {found.fault})"
    for name, shapes in EVENT_SHAPES.items():
        if shape in shapes and _may_explain(name, outcome, tries, scene) and scene.has(name, outcome):
            return f"{shape} ({name})"
    if outcome.is_websocket and not tries and outcome.closed in _BETWEEN_TURNS:
        return "the WebSocket was closed between two turns (spec 10)"
    if shape == "no answer" and outcome.reused and not tries:
        return "the idle connection was closed meanwhile (RFC 9112 section 9.3.1)"
    return None


def _may_explain(name: str, outcome: Outcome, tries: Sequence[Try], scene: Scene) -> bool:
    """Whether an event of this name has to do with the request at all."""
    if name == DISK_FULL:
        # Or the provider has refused the token, which cannot be refreshed meanwhile.
        return outcome.user in scene.on_disk and all(found.status == 401 for found in tries)
    if name != KILLED:
        return not any(found.is_served for found in tries)
    # Only the last try counts: what the lender answered before it was killed cannot explain a broken answer of another
    # account.
    return tries[-1].account in scene.lent if tries else outcome.user in scene.borrowers


def _shapes(fault: str, outcome: Outcome, is_lent: bool) -> frozenset[str]:
    """What a client may get because of a fault. ``is_lent``: the lender met it, and refused the request by itself,
    which the borrower may pass on without the lender's word."""
    shapes = SHAPES.get(fault, frozenset())
    if is_lent:
        shapes |= {f"refused: {status}" for word, status in _OWN_STATUS.items() if word in shapes}
    if outcome.is_websocket and fault not in HARMLESS:
        shapes |= _WEBSOCKET_SHAPES
    if fault == "truncated" and not outcome.streamed:
        shapes |= {"other content"}
    return shapes


def _told(found: Try) -> str:
    fault = found.fault or "no fault"
    return f"{found.status} by {found.account or 'nobody'} ({fault}, {found.state})"
