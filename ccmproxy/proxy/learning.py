"""What a credential learns from how its answers go on and end, after the client has got the first byte (spec 12.2)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.dialects.oauth import Authorization
from ccmproxy.interfaces.credentials import CredentialUnavailable, ILease, RefreshNotForced
from ccmproxy.policy.answers import SERVED, AnswerKind, Verdict
from ccmproxy.policy.balancing import Selection
from ccmproxy.policy.opinions import Opinion
from ccmproxy.proxy.charges import input_of
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, ModelDenied
from ccmproxy.state.limits import LimitsUpdate

_log = Logger()


def learn_limits(lease: ILease, verdict: Verdict) -> bool:
    """Let the credential learn of a window that is used up. Returns whether the verdict was about one."""
    match verdict.kind:
        case AnswerKind.RATE_LIMITED:
            lease.rate_limited(verdict.until, verdict.explicit)
        case AnswerKind.MODEL_RATE_LIMITED:
            if verdict.model:
                lease.observe(LimitsUpdate(model_rejections={verdict.model: verdict.until}))
        case _:
            return False
    return True


def asked_for(asked: ProxiedRequest, selection: Selection) -> Combination:
    """Return what a refusal of the selection may be charged to: a turn within a WebSocket names a model, the request
    that opened it does not."""
    return selection.asked if selection.asked is not None else asked.combination


def begins_anew(asked: ProxiedRequest, selection: Selection, lease: ILease, verdict: Verdict) -> bool:
    """Return whether a turn that was refused before its output should be begun anew on another credential, if there is
    one: a window is used up, or the account may not use the model.

    The latter once, as it may be that nobody may use it: what the next one refuses, the client gets.
    """
    if verdict.kind in (AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED):
        return True
    if verdict.kind is not AnswerKind.MODEL_REFUSED or selection.session is None or not lease.is_account:
        return False
    opinions, now = asked.context.opinions, asked.context.clock.seconds()
    return not opinions.is_refused_midway(
        asked.caller.name, selection.session, asked_for(asked, selection), now
    )


def learn_refusal(
    asked: ProxiedRequest,
    selection: Selection,
    lease: ILease,
    authorization: Authorization,
    verdict: Verdict,
) -> None:
    """Let the credential learn from a refusal that came after the first byte, which nobody else can be asked about.

    ``selection``: of the session and model that was refused. ``authorization``: what the request was sent with.
    A refusal that does not say what it is about moves the session for its next request within a minute: what that
    one's credential answers is the second opinion (spec 12.1). A remote instance is charged with nothing: it has learnt
    itself which of its accounts was refused.
    """
    if lease.is_external:
        asked.caller.provider.refused(selection, lease.tag)
        return
    if learn_limits(lease, verdict):
        return
    match verdict.kind:
        case AnswerKind.ACCOUNT_REFUSED:
            lease.learn(AccountRefused(verdict.sentence))
        case AnswerKind.AUTH_FAILED:
            recovery = Deferred.fromCoroutine(_recover(asked, selection, lease, authorization, verdict))
            recovery.addErrback(_not_recovered)
        case (
            AnswerKind.MODEL_REFUSED | AnswerKind.BUSY | AnswerKind.DENIED | AnswerKind.STREAM_FAILED
        ) as kind:
            if kind is AnswerKind.MODEL_REFUSED and asked.context.opinions.has_served(selection.model):
                lease.learn(ModelDenied(selection.model or ""))
            asked.caller.provider.refused(selection, lease.tag)
            if selection.session is not None and not verdict.is_about_request:
                asked.context.opinions.was_refused_midway(
                    asked.caller.name,
                    selection.session,
                    asked_for(asked, selection),
                    Opinion(lease.tag, verdict, lease.identity, lease.is_account),
                    asked.context.clock.seconds(),
                )
        case _:
            pass


async def _recover(
    asked: ProxiedRequest,
    selection: Selection,
    lease: ILease,
    authorization: Authorization,
    verdict: Verdict,
) -> None:
    """Get another token than the one that was refused in mid-stream. The present request is lost; the client sends
    another one, and by then there is a new token.

    If there is none, the session goes to another account if there is one, as the same token would be refused again. A
    login that stays refused although it was refreshed is bad, unless its token is known to be good (spec 12.3).
    """
    try:
        await lease.recover(authorization, asked.caller.name)
        return
    except RefreshNotForced:
        is_good = not verdict.is_revoked and await lease.prove(authorization)
    except CredentialUnavailable:
        is_good = True  # The account knows already what is the matter with its login.
    asked.caller.provider.refused(selection, lease.tag)
    if not is_good:
        lease.login_refused(authorization, verdict.sentence)


def _not_recovered(failure: Failure) -> None:
    _log.failure("learning from a refused token failed", failure)


def learn_served(asked: ProxiedRequest, selection: Selection, lease: ILease) -> None:
    """Note that a request of the session was served to its end: its prompt cache is warm there.

    It may be the second opinion on a refusal that the session met in mid-stream elsewhere (spec 12.1).
    """
    provider, opinions = asked.caller.provider, asked.context.opinions
    combination = asked_for(asked, selection)
    provider.served(selection, lease.tag)
    if selection.session is None or not opinions.has_midway:
        return
    charge = opinions.served_after(
        asked.caller.name,
        selection.session,
        combination,
        Opinion(lease.tag, SERVED, lease.identity, lease.is_account),
        asked.context.clock.seconds(),
    )
    if charge is None:
        return
    for credential in provider.credentials(asked.caller.allow_external):
        # Another identity's login may have come in the meantime (spec 12.5).
        if credential.tag == charge.tag and credential.identity == charge.identity:
            credential.learn(input_of(charge, combination, asked.caller.name))
