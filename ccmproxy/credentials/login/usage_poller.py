"""Polls of the usage endpoint of an account with a login (spec 3.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ccmproxy.credentials.control import Answer, ControlError, Fetch
from ccmproxy.credentials.login.token import POLLS, TokenKeeper
from ccmproxy.credentials.polling import BACK_OFF, DEFAULT_RETRY_AFTER, TIMEOUT, Poller, ask_repeatedly
from ccmproxy.dialects.oauth import AnswerMalformed, OAuthToken, UpstreamURLs
from ccmproxy.http.retry_after import parse_retry_after
from ccmproxy.interfaces.credentials import CredentialUnavailable, RefreshNotForced
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.state.inputs import Input, PollRefused, PollSucceeded

#: Delay after a 403 that is not about the token (seconds). It is long because such a refusal seldom ends soon.
FORBIDDEN_DELAY = BACK_OFF[-1]
#: Statuses of a usage endpoint that refuses the account (spec 12.3).
REFUSALS = frozenset({400, 401, 402, 403})


class UsagePoller(Poller):
    """Polls the usage windows of one account. ``weight`` returns the plan weight of a login.

    A 429, and a 403 that is not about the token, deliberately do not count as failures (F26): a refusal to answer
    polls says nothing about the account. They only delay the next poll. ``token_state`` is told what a poll has shown
    about its token: True = it is good, False = the endpoint refused it although it was refreshed, None = nothing.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        keeper: TokenKeeper,
        account_format: IAccountFormat,
        urls: UpstreamURLs,
        fetch: Fetch,
        clock: IReactorTime,
        apply: Callable[[Input], None],
        last_update: Callable[[], float],
        weight: Callable[[OAuthToken], float],
        now: Callable[[], float],
        wanted: Callable[[float], float] = lambda now: 0.0,
        token_state: Callable[[OAuthToken, bool | None], None] = lambda token, is_good: None,
    ) -> None:
        super().__init__(tag, clock, apply, last_update, now, wanted)
        self._keeper = keeper
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._weight = weight
        self._token_state = token_state
        #: The plan that the usage endpoint named last, for logins of this identity whose own plan is still the same.
        self._told_plan: str | None = None
        self._told_of: tuple[str | None, str | None] = (None, None)

    def with_plan(self, token: OAuthToken) -> OAuthToken:
        """Return ``token`` with the plan that the usage endpoint named last for its account, until the login itself
        names another plan than it did then (spec 12.5)."""
        if self._told_plan is None or self._told_of != (token.account_id, token.plan):
            return token
        return replace(token, plan=self._told_plan)

    async def ask_for_proof(self, token: OAuthToken) -> bool | None:
        """Ask the usage endpoint once whether ``token`` is good. Returns None if that does not say so within 5 s.

        A 403 that is not about the token says so, too: it is about what the login may do.
        """
        request = self._format.usage_request(token, self._urls)
        try:
            answer = await self._fetch(request, TIMEOUT)
        except ControlError:
            return None
        if self._format.token_rejected(answer.status, answer.body):
            return False
        return True if answer.status in (200, 403) else None

    @property
    def _can_ask(self) -> bool:
        return isinstance(self._keeper.authorization, OAuthToken)

    def token_failed(self, message: str) -> None:
        """Count a temporary failure to get a token as a failed poll (spec 3.2).

        It is not counted during a poll, or during the back-off after an earlier failure, since it is then the same
        failure.
        """
        if self._running and not self._polling and (not self.failures or self._wait() <= 0):
            self._count(message)
            self._arm()

    async def _poll(self) -> None:
        token = await self._keeper.authorize()
        if not isinstance(token, OAuthToken):
            return
        answer = await self._ask(token)
        if self._format.token_rejected(answer.status, answer.body):
            try:
                recovered = await self._keeper.recover(token, POLLS)
            except RefreshNotForced:
                # The budget is spent: the refusal counts as it is.
                recovered = token
            except CredentialUnavailable:
                self._token_state(token, False)
                raise
            if not isinstance(recovered, OAuthToken):
                return
            if recovered != token:
                token = recovered
                answer = await self._ask(token)
        self._take(answer, token)
        await self._keeper.complete_profile()

    async def _ask(self, token: OAuthToken) -> Answer:
        """Return the answer of the usage endpoint. Raises ControlError when there is none."""
        try:
            return await ask_repeatedly(
                self._fetch, self._format.usage_request(token, self._urls), self._clock
            )
        except ControlError:
            self._token_state(token, None)
            raise

    def _take(self, answer: Answer, token: OAuthToken) -> None:
        now = self._now()
        rejected = self._format.token_rejected(answer.status, answer.body)
        is_known = answer.status in (200, 403) or rejected
        self._token_state(token, not rejected if is_known else None)
        if answer.status in REFUSALS:
            self._apply(PollRefused(answer.status))
        if answer.status == 200:
            try:
                update = self._format.usage_answer(answer.body, now)
            except AnswerMalformed as error:
                self._count(str(error))
                return
            told = self._format.usage_plan(answer.body, token)
            if told.plan != token.plan:
                self._told_plan, self._told_of = told.plan, (token.account_id, token.plan)
            else:
                self._told_plan = None
            self._succeeded(PollSucceeded(update, self._weight(token), began=self._began))
        elif answer.status == 429 or (answer.status == 403 and not rejected):
            first = DEFAULT_RETRY_AFTER if answer.status == 429 else FORBIDDEN_DELAY
            self._postpone(parse_retry_after(answer.headers.get("retry-after"), now), first)
            self.log.info(
                "{tag}: usage endpoint answered {status}, asked again later",
                tag=self._tag,
                status=answer.status,
            )
        else:
            self._count(f"usage endpoint answered {answer.status}")
