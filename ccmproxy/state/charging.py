"""How refusals, and requests that are served, change what is known of a credential (spec 12.1 to 12.3, 12.5). Pure.

Functions from a state to a state; :mod:`ccmproxy.state.transitions` calls them for its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ccmproxy.state import holds, refused
from ccmproxy.state.availability import CredentialState, ModelBlock, Refusal
from ccmproxy.state.holds import Combination, Holds
from ccmproxy.state.limits import EMPTY, RESET_JITTER, Limits, LimitsUpdate, Window, is_expired
from ccmproxy.state.model_names import is_of_family, name_words

#: Refusals that are remembered, to see whether different callers or models meet them.
MOST_REFUSALS = 8
#: Refusals that are further apart are not refusals in a row, however quiet the service is (seconds).
REFUSALS_FORGOTTEN = 600.0
#: Headers that are lower than what is known by so much are not believed (percent points).
DISBELIEVED_BY = 5.0
#: Figures that are not believed, and refusals that nothing explains, ask for a poll at most once in so long (seconds).
POLL_WANTED_AGAIN = 600.0
#: A rate-limited credential is polled after so long, and then again and again after so long (seconds).
FIRST_LOOK = 120.0
NEXT_LOOK = 900.0
#: A credential that serves other models is polled so often for the one whose window is used up (seconds).
NEXT_LOOK_AT_MODEL = 3600.0
#: A window that polls show below this twice in a row is not used up, whatever a 429 has said (percent).
CLEARLY_BELOW = 95.0


def rests(
    state: CredentialState, asked: Combination, caller: str, wait: float | None, now: float
) -> CredentialState:
    """Another account serves what this one refused without data: the combination takes no cold work for a while; the
    account as a whole, if it refused two models or two callers with nothing served in between."""
    state, pattern = _noted(state, Refusal(caller, asked.model, True), asked, now, by_model=True)
    changed = holds.rested(state.holds, asked, wait, now)
    if pattern is not None:
        changed = holds.rested(changed, None, wait, now)
    return replace(state, holds=changed)


def is_denied(
    state: CredentialState, asked: Combination, caller: str, sentence: str, now: float
) -> CredentialState:
    """Another account serves what this one refuses: the combination is not sent there for a while; the account is
    refused, if it refused two models or two callers with nothing served in between."""
    refusal = Refusal(caller, asked.model, False, sentence)
    state, pattern = _noted(state, refusal, asked, now, by_model=True)
    state = replace(state, holds=holds.denied(state.holds, asked, now))
    return state if pattern is None else is_refused(state, pattern, now)


def may_not_use(state: CredentialState, model: str, now: float) -> CredentialState:
    """Known words: the model is not for this account."""
    return replace(state, holds=holds.model_denied(state.holds, model, now))


def is_refused(state: CredentialState, sentence: str, now: float) -> CredentialState:
    """Known words, or the evidence of different callers: the account itself is refused."""
    return replace(state, refused=refused.refused(state.refused, state.last_refused, sentence, now))


def was_refused(
    state: CredentialState,
    asked: Combination,
    caller: str,
    wait: float | None,
    sentence: str,
    now: float,
    *,
    is_busy: bool,
) -> tuple[CredentialState, bool]:
    """A refusal without known words, on which nobody else was or could be heard. By itself it charges nothing; that
    different callers meet it in a row does. The second: whether a poll may tell more, as with a single caller."""
    refusal = Refusal(caller, asked.model, is_busy, sentence)
    state, pattern = _noted(state, refusal, asked, now, by_model=False)
    if pattern is None:
        return state, True
    if is_busy:
        return replace(state, holds=holds.rested(state.holds, None, wait, now)), False
    return is_refused(state, pattern, now), False


def leased(state: CredentialState, now: float) -> CredentialState:
    """A request has chosen the credential. Of a refused account it is the one that finds out: others that come while it
    waits for a token must not follow it."""
    known = state.refused
    if known is None or not (known.is_open or now >= known.request_at):
        return state
    return replace(state, refused=refused.sent(known, now))


def request_sent(state: CredentialState, asked: Combination, now: float) -> CredentialState:
    """A request goes to the upstream."""
    changed = state.holds if state.holds.is_empty else holds.sent(state.holds, asked, now)
    return state if changed is state.holds else replace(state, holds=changed)


def request_gave_up(state: CredentialState, asked: Combination) -> CredentialState:
    """A request that was sent came to nothing that tells anything of the credential."""
    return state if state.holds.is_empty else replace(state, holds=holds.gave_up(state.holds, asked))


def request_served(
    state: CredentialState, asked: Combination, sent_at: float, now: float, *, is_model_request: bool
) -> CredentialState:
    """The upstream has served a request that was sent at ``sent_at`` (Unix seconds): nothing is held against the
    credential any more that the request would have met."""
    limited = state.rate_limited_until
    if is_model_request and limited > now and sent_at > state.rate_limited_at > 0:
        limited = 0.0
    known, last = state.refused, state.last_refused
    if known is not None and is_model_request and sent_at > known.since:
        last = refused.LastRefused(known.step, now)
        known = None
    blocks = state.model_rejections
    if blocks and is_model_request:
        words = name_words(asked.model)
        blocks = {
            family: block
            for family, block in blocks.items()
            if sent_at <= block.since or not is_of_family(words, family)
        }
    changed = holds.served(state.holds, asked, sent_at, now, is_model_request=is_model_request)
    refusals = () if is_model_request else state.refusals
    cannot_serve = state.cannot_serve and not is_model_request
    if (
        limited == state.rate_limited_until
        and known is state.refused
        and changed is state.holds
        and refusals == state.refusals
        and len(blocks) == len(state.model_rejections)
        and cannot_serve is state.cannot_serve
    ):
        return state
    return replace(
        state,
        rate_limited_until=limited,
        cannot_serve=cannot_serve,
        refused=known,
        last_refused=last,
        holds=changed,
        refusals=refusals,
        model_rejections=MappingProxyType(blocks),
    )


def _noted(
    state: CredentialState, refusal: Refusal, asked: Combination, now: float, *, by_model: bool
) -> tuple[CredentialState, str | None]:
    """Remember a refusal. If different callers (or, ``by_model``, models) have met the like in a row, the second is
    what may be said of it to everybody; None if they have not.

    Only model requests count: what count_tokens is refused for never touches them (spec 12.2). A 429 and a 403 are not
    alike. A sentence that only one caller has got may repeat something of that caller's request.
    """
    if not asked.is_model_request:
        return state, None
    known = state.refusals if 0 <= now - state.refusals_at < REFUSALS_FORGOTTEN else ()
    kept = (*(each for each in known if each[:3] != refusal[:3]), refusal)[-MOST_REFUSALS:]
    alike = [each for each in kept if each.is_busy is refusal.is_busy]
    callers = {each.caller for each in alike}
    models = {each.model for each in alike}
    state = replace(state, refusals=kept, refusals_at=now)
    if len(callers) < 2 and not (by_model and len(models) > 1):
        return state, None
    same = {each.caller for each in alike if each.sentence == refusal.sentence}
    return state, refusal.sentence if len(same) > 1 else ""


# Polls ----------------------------------------------------------------------------------------------------------


def polled(
    state: CredentialState, update: LimitsUpdate, began: float, caps: tuple[float, float], now: float
) -> CredentialState:
    """What a successful poll that was sent at ``began`` (Unix seconds) says of rate limits, and of a refusal.

    ``caps``: of the short and the weekly window, percent. To be called before the windows are replaced.
    """
    if state.refused is not None:
        state = replace(state, refused=refused.polled(state.refused, now, is_good=True))
    if state.model_rejections:
        state = replace(state, model_rejections=_blocks_after(state.model_rejections, update, began, caps[1]))
    if state.rate_limited_until <= now or began <= state.rate_limited_at:
        return state
    both = zip((update.short, update.weekly), caps, strict=True)
    windows = [(window, cap) for window, cap in both if window is not None]
    claimed = [pair for pair in windows if _is_claimed(pair[0], state.rate_limited_until)] or windows
    if not claimed:
        return state
    low_polls = _low_polls(claimed, state.rate_limited_until, state.low_polls)
    if low_polls is None:
        return replace(state, rate_limited_until=0.0, low_polls=0)
    return replace(state, low_polls=low_polls)


def _blocks_after(
    blocks: Mapping[str, ModelBlock], update: LimitsUpdate, began: float, cap: float
) -> Mapping[str, ModelBlock]:
    """Return the blocks of model families that a poll leaves. ``cap``: of their windows, percent."""
    left = {}
    for family, block in blocks.items():
        window = update.models.get(family)
        if window is None or began <= block.since:
            left[family] = block
            continue
        low_polls = _low_polls([(window, cap)], block.until, block.low_polls)
        if low_polls is not None:
            left[family] = block._replace(low_polls=low_polls)
    return MappingProxyType(left)


def _low_polls(windows: Sequence[tuple[Window, float]], until: float, low_polls: int) -> int | None:
    """Return how many polls in a row have shown the windows of a block clearly below their caps; None: the block is
    over, as the windows have room and another reset than the claimed one, or were clearly below twice (spec 12.5).

    ``windows``: with their caps (percent). ``until``: the end of the block (Unix seconds); ``low_polls``: the number so
    far.
    """
    below_cap = all((window.utilization or 0.0) < cap for window, cap in windows)
    if below_cap and not any(_is_claimed(window, until) for window, _ in windows):
        return None
    if any((window.utilization or 0.0) >= CLEARLY_BELOW for window, _ in windows):
        return 0
    return low_polls + 1 if low_polls == 0 else None


def poll_wanted(state: CredentialState, last_poll: float, now: float) -> float:
    """When the state asks for a poll besides the usual rhythm (Unix seconds); 0: it does not.

    A rate-limited credential is looked at after 2 min and then every 15 min, one whose window of a model is used up
    after 2 min and then every hour, whatever its answers say meanwhile, a refused one at growing intervals.
    ``last_poll``: when the last poll began.
    """
    moments = []
    if state.rate_limited_until > now and state.rate_limited_at > 0:
        first = state.rate_limited_at + FIRST_LOOK
        moments.append(first if last_poll < first else last_poll + NEXT_LOOK)
    for block in state.model_rejections.values():
        first = block.since + FIRST_LOOK
        moments.append(first if last_poll < first else last_poll + NEXT_LOOK_AT_MODEL)
    if state.refused is not None and not state.refused.is_open:
        moments.append(state.refused.next_at)
    # A time that a poll has met already must not hide a later one.
    return min((moment for moment in moments if moment > last_poll), default=0.0)


def _is_claimed(window: Window, until: float) -> bool:
    return abs(window.resets_at - until) <= RESET_JITTER


def is_believed(limits: Limits, update: LimitsUpdate, now: float) -> bool:
    """Whether the windows of an answer's headers can be true beside what is known: not lower by several points, and no
    reset that is earlier, within a window that has not ended (spec 12.5)."""
    for known, said in _window_pairs(limits, update):
        if said is None or said.utilization is None or known.utilization is None:
            continue
        if is_expired(known, now) or is_expired(said, now):
            continue
        if known.resets_at and said.resets_at > known.resets_at + RESET_JITTER:
            continue
        if said.utilization <= known.utilization - DISBELIEVED_BY:
            return False
        if known.resets_at and said.resets_at and said.resets_at < known.resets_at - RESET_JITTER:
            return False
    return True


def are_taken(merged: Limits, update: LimitsUpdate) -> bool:
    """Return whether some figure of an answer is now what is known: only then is it an update (spec 12.5).

    ``merged``: what is known after the answer.
    """
    return any(
        said is not None and said.utilization is not None and said.utilization == known.utilization
        for known, said in _window_pairs(merged, update)
    )


def _window_pairs(limits: Limits, update: LimitsUpdate) -> Iterator[tuple[Window, Window | None]]:
    """Yield each window that is known, with what an answer says of it: of the account, of models, of named limits."""
    yield limits.short, update.short
    yield limits.weekly, update.weekly
    for family, window in update.models.items():
        yield limits.models.get(family, EMPTY), window
    for key, said in update.named.items():
        limit = limits.named.get(key)
        if limit is not None:
            yield limit.short, said.short
            yield limit.weekly, said.weekly


def clean_slate(state: CredentialState, now: float) -> CredentialState:
    """Another identity's login is in the file: what is known of the last one says nothing of it (spec 12.5)."""
    return replace(
        state,
        slate=state.slate + 1,
        slate_at=now,
        limits=Limits(),
        poll_failures=0,
        rate_limited_until=0.0,
        rate_limited_at=0.0,
        low_polls=0,
        sockets_rest_until=0.0,
        model_rejections=MappingProxyType({}),
        holds=Holds(),
        refused=None,
        last_refused=None,
        refusals=(),
        refusals_at=0.0,
        last_update=0.0,
        poll_wanted_at=0.0,
    )
