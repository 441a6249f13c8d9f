"""A world with several accounts behind one pool, and what a test of pools asks of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.destination import upstream_of
from ccmproxy.credentials.login.account import LoginAccount
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.message import first_value
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.record import ReceivedRequest
from tests.conversation import TOKEN, Client, Response, World

BOB = "bob-token-0815"

CONFIGURATION = """
services:
  - type: ccm
    listen_port: 8080
    credentials:
{{credentials}}
      - tag: pool
        type: balancer
        credentials: {tags}
        strategy: {strategy}
        rebalance_threshold: {threshold}
        spread_subagents: {spread}
{more_credentials}
    users:
      - {{{{name: alice, token: {{token}}, credential: pool}}}}
      - {{{{name: bob, token: {bob}, credential: {bobs}}}}}
    upstream:
      api_url: http://127.0.0.1:9000
      token_url: http://127.0.0.1:9000/v1/oauth/token
      usage_url: http://127.0.0.1:9000/api/oauth/usage
      profile_url: http://127.0.0.1:9000/api/oauth/profile
{{more}}
"""


class PoolWorld(World):
    """Accounts ``a1``, ``a2``, … of these plans in a pool, which serves alice and, unless told otherwise, bob.

    Nobody is ever told of a 429, or of anything else than success, while an account has room: :meth:`served` looks.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        plans: Sequence[str] = ("max_20x", "max_20x"),
        *,
        strategy: str = "least-used",
        threshold: float = 0,
        spread: bool = False,
        bobs: str = "pool",
        members: Sequence[str] = (),
        more_credentials: str = "",
        **options: Any,
    ) -> None:
        tags = list(members) or [f"a{number}" for number in range(1, len(plans) + 1)]
        configuration = CONFIGURATION.format(
            tags=json.dumps(tags),
            strategy=strategy,
            threshold=threshold,
            spread=str(spread).lower(),
            bob=BOB,
            bobs=bobs,
            more_credentials=more_credentials.replace("{", "{{").replace("}", "}}"),
        )
        super().__init__(case, configuration=configuration, plan=plans, **options)

    def served(self, session: str | None = None, **options: Any) -> str:
        """Ask in this session, be served, and give the tag of the account that did."""
        response = self.answer(session=session, **options)
        self.case.assertEqual(response.status, 200, response.body[:300])
        return self.by(self.turns()[-1])

    def turns(self) -> list[ReceivedRequest]:
        """The turns that the upstream was asked for, refused ones included."""
        return list(self.simulator.requests.of("turn"))

    def by(self, request: ReceivedRequest) -> str:
        """The tag of the account that a request to the upstream was sent with."""
        token = first_value(request.headers, b"authorization")
        for number, login in enumerate(self.logins, 1):
            if token == b"Bearer " + login.access_token.encode():
                return f"a{number}"
        raise AssertionError("a token of no account")

    def where(self, user_token: str = TOKEN) -> dict[str, str]:
        """Session → tag, as the user's own list of sessions says it."""
        listed = self.get("/ccm/v1/sessions", token=user_token).json()["sessions"]
        return {each["session"]: each["credential"] for each in listed}

    def spread_of(self, sessions: Sequence[str]) -> Counter[str]:
        """How many of these sessions are on each account."""
        where = self.where()
        return Counter(where[session] for session in sessions)

    def exhaust(self, tag: str, window: str = "five_hour", resets_in: float | None = None) -> ClaudeAccount:
        """Use an account up without anybody being told: the next request meets a 429.

        ``resets_in``: seconds; only for a window that nobody knows yet, as a reset never comes closer. Left out, it
        is when it was to be, or the window begins now.
        """
        login = self.login_of(tag)
        begun = login.windows[window].resets_at is not None
        login.exhaust(window, login.windows[window].length if resets_in is None and not begun else resets_in)
        return login

    def unreachable(self, tag: str) -> None:
        """Nobody listens any more where an account's requests go."""
        nowhere = ConnectionPool(self.network.endpoint("127.0.0.1", 9), self.clock)
        self.accounts[int(tag[1:]) - 1]._upstream = upstream_of("http://127.0.0.1:9", nowhere)

    def login_of(self, tag: str) -> ClaudeAccount:
        """The simulated account with this tag."""
        return self.logins[int(tag[1:]) - 1]

    def poll(self) -> None:
        """Every account's usage is asked for now."""
        for account in self.accounts:
            assert isinstance(account, LoginAccount)
            account._poller.poll()
        self.network.flush()

    def last(self, client: Client) -> Response:
        """The last answer that a client received, whole."""
        response = client.responses()[-1]
        self.case.assertTrue(response.complete)
        return response
