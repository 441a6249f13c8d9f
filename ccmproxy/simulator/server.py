"""The simulator: upstreams with their accounts, faults and record, behind one HTTP server factory."""

from __future__ import annotations

import random

from twisted.internet.interfaces import IReactorTime

from ccmproxy.http.failures import BodyTooLarge
from ccmproxy.http.message import Body, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerLimits, ServerRequest
from ccmproxy.simulator.claude.error_answers import ErrorAnswers
from ccmproxy.simulator.claude.simulated_account import SCOPES, ApiKeyAccount, ClaudeAccount
from ccmproxy.simulator.claude.upstream import ClaudeUpstream
from ccmproxy.simulator.codex.simulated_account import (
    CodexAccount,
    OpenAIKey,
    SimulatedCredits,
    SimulatedLimit,
)
from ccmproxy.simulator.codex.upstream import CodexUpstream
from ccmproxy.simulator.faults import FaultPlan, Scenario
from ccmproxy.simulator.player import Ending, Player
from ccmproxy.simulator.record import ReceivedRequest, Record
from ccmproxy.simulator.steps import Pace, perform
from ccmproxy.simulator.upstream import Delivery, SimulatedUpstream

#: Largest request that the real service accepts, in bytes; the error for a larger one names this figure.
MAX_REQUEST_BODY = 32 * 1024 * 1024


class Simulator:
    """Realistic upstreams for tests, demo and benchmarks.

    ``clock`` provides Unix seconds and timers; ``rng`` makes all random decisions, so that a seed repeats a run.
    ``speed``: how many times faster than real the windows of accounts pass. ``pace``: how fast streams are produced;
    may be replaced at any time. ``factory`` builds the server's protocols, for TCP or in memory.

    ``requests``: the requests received, within bounds. ``faults``: the plan of faults. ``concurrent`` and
    ``max_concurrent``: number of requests being answered, now and at most.
    """

    def __init__(
        self,
        clock: IReactorTime,
        rng: random.Random | None = None,
        *,
        scenario: Scenario = Scenario(),  # noqa: B008 (frozen)
        speed: float = 1.0,
        pace: Pace = Pace(),  # noqa: B008 (frozen)
        record: Record | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng if rng is not None else random.Random(0)
        self._speed = speed
        self.pace = pace
        self.requests = record if record is not None else Record()
        self.faults = FaultPlan(self._rng, scenario)
        self.received = 0
        self.concurrent = 0
        self.max_concurrent = 0
        self.claude = ClaudeUpstream(self.faults, self._rng, clock.seconds, lambda: self.pace)
        self.codex = CodexUpstream(self.faults, self._rng, clock.seconds, lambda: self.pace)
        # At paths that both have, Codex takes the requests that are meant for it, and Claude the rest.
        self._upstreams: list[SimulatedUpstream] = [self.codex, self.claude]
        self._errors = ErrorAnswers(self._rng)
        self.factory = HTTPServerFactory(
            self._receive, clock, limits if limits is not None else ServerLimits(), self._malformed
        )

    # Accounts -------------------------------------------------------------------------------------------------

    def add_account(
        self,
        name: str = "",
        plan: str = "max_20x",
        *,
        model_windows: tuple[str, ...] = (),
        same_organization_as: ClaudeAccount | None = None,
        scopes: tuple[str, ...] = SCOPES,
        token_lifetime: float = 28800.0,
        access_tokens_overlap: bool = False,
    ) -> ClaudeAccount:
        """Add a Claude subscription account that is logged in.

        ``name`` defaults to ``account-1``, ``account-2``, …; ``plan`` is one of PLANS; ``token_lifetime`` is in seconds
        and independent of the speed; for the others see :class:`ClaudeAccount`. Raises KeyError for an unknown plan and
        ValueError for an unknown window.
        """
        account = ClaudeAccount(
            name or f"account-{len(self.claude.accounts) + 1}",
            plan,
            rng=self._rng,
            time=self._clock.seconds,
            speed=self._speed,
            model_windows=model_windows,
            same_organization_as=same_organization_as,
            scopes=scopes,
            token_lifetime=token_lifetime,
            access_tokens_overlap=access_tokens_overlap,
        )
        self.claude.accounts.append(account)
        return account

    def add_api_key(self, name: str = "", *, requests_per_minute: int = 4000) -> ApiKeyAccount:
        """Add a key of Claude's commercial API; ``name`` defaults to ``key-1``, ``key-2``, …"""
        account = ApiKeyAccount(
            name or f"key-{len(self.claude.keys) + 1}",
            rng=self._rng,
            time=self._clock.seconds,
            requests_per_minute=requests_per_minute,
        )
        self.claude.keys.append(account)
        return account

    def add_codex_account(
        self,
        name: str = "",
        plan: str = "pro",
        *,
        named_limits: tuple[SimulatedLimit, ...] = (),
        credits: SimulatedCredits | None = None,
        same_workspace_as: CodexAccount | None = None,
        token_lifetime: float = 864000.0,
        access_tokens_overlap: bool = False,
    ) -> CodexAccount:
        """Add a ChatGPT account that is logged in to Codex.

        ``name`` defaults to ``codex-1``, ``codex-2``, …; ``plan`` is one of the PLANS of Codex; ``token_lifetime`` is
        in seconds and independent of the speed; for the others see :class:`CodexAccount`. Raises KeyError for an
        unknown plan.
        """
        account = CodexAccount(
            name or f"codex-{len(self.codex.accounts) + 1}",
            plan,
            rng=self._rng,
            time=self._clock.seconds,
            speed=self._speed,
            named_limits=named_limits,
            credits=credits,
            same_workspace_as=same_workspace_as,
            token_lifetime=token_lifetime,
            access_tokens_overlap=access_tokens_overlap,
        )
        self.codex.accounts.append(account)
        return account

    def add_openai_key(self, name: str = "", *, requests_per_minute: int = 5000) -> OpenAIKey:
        """Add a key of the OpenAI API; ``name`` defaults to ``openai-key-1``, ``openai-key-2``, …"""
        key = OpenAIKey(
            name or f"openai-key-{len(self.codex.keys) + 1}",
            rng=self._rng,
            time=self._clock.seconds,
            requests_per_minute=requests_per_minute,
        )
        self.codex.keys.append(key)
        return key

    # Serving --------------------------------------------------------------------------------------------------

    def _receive(self, request: ServerRequest) -> None:
        request.receive_body(
            MAX_REQUEST_BODY,
            lambda body: self._answer(request, body),
            lambda error: self._refuse(request, error),
        )

    def _refuse(self, request: ServerRequest, error: Exception) -> None:
        """Refuse a request whose body did not arrive whole."""
        if isinstance(error, BodyTooLarge):
            reply = self._errors.error(413, "request_too_large", "Request exceeds the maximum size")
        else:
            reply = self._errors.error(400, "invalid_request_error", "The request body did not arrive")
        request.close_after_response()
        request.respond(reply.head, reply.body)

    def _malformed(self, status: int, message: str) -> tuple[ResponseHead, bytes]:
        """The response to bytes that are not a valid request."""
        reply = self._errors.error(status, "invalid_request_error", message)
        return reply.head, reply.body

    def _answer(self, request: ServerRequest, body: Body) -> None:
        received = ReceivedRequest(
            number=0,
            at=self._clock.seconds(),
            method=request.head.method,
            target=request.head.target,
            headers=request.head.headers,
            body=body.joined(),
            peer=str(request.peer),
        )
        self._note(received)
        answer = self._ask(received)
        received.status = answer.reply.head.status
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        if answer.turn is not None:
            answer.turn.begin_turn()

        def ended(ending: Ending) -> None:
            received.state = ending
            self.concurrent -= 1
            if answer.turn is not None:
                answer.turn.end_turn()

        if answer.switch is not None:
            request.take_over(answer.switch(self._clock, self._note, ended))
            return
        steps = perform(answer.reply, answer.fault, self._rng)
        Player(request, steps, self._clock, ended).play()

    def _note(self, received: ReceivedRequest) -> None:
        self.received += 1
        received.number = self.received
        self.requests.append(received)

    def _ask(self, received: ReceivedRequest) -> Delivery:
        for upstream in self._upstreams:
            if (answer := upstream.answer(received)) is not None:
                return answer
        return Delivery(self._errors.error(404, "not_found_error", "Not Found"))
