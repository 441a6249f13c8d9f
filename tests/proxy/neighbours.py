"""A service with three accounts and three users, in either dialect: who feels what of one user's odd request."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.accounts import SimulatedAccount
from tests.conversation import PROXY, TOKEN, Client, Response, World, message_request
from tests.pooled import BOB
from tests.proxy.scripted_upstream import ScriptedUpstream
from tests.proxy.test_codex import request
from tests.proxy.websocket.scene import ClientSocket, upgrade_request
from tests.proxy.websocket.scene import event as message

CAROL = "carol-token-2342"
TOKENS = {"alice": TOKEN, "bob": BOB, "carol": CAROL}
ACCOUNTS = ("a1", "a2", "a3")
#: What the request says that a scene is about; nobody else says it.
ODD = "odd"

SERVICE = """
services:
  - type: {kind}
    listen_port: 8080
    credentials:
{{credentials}}
      - {{{{tag: pool, type: balancer, credentials: [a1, a2, a3], strategy: fallback}}}}
    users:
      - {{{{name: alice, token: {{token}}, credential: pool}}}}
      - {{{{name: bob, token: {bob}, credential: pool}}}}
      - {{{{name: carol, token: {carol}, credential: a1}}}}
    upstream: {upstream}
{{more}}
"""

#: By dialect: the type of service, and where the simulator is.
KINDS = {
    "claude": (
        "ccm",
        {
            "api_url": "http://127.0.0.1:9000",
            "token_url": "http://127.0.0.1:9000/v1/oauth/token",
            "usage_url": "http://127.0.0.1:9000/api/oauth/usage",
            "profile_url": "http://127.0.0.1:9000/api/oauth/profile",
        },
    ),
    "codex": (
        "ocm",
        {
            "api_url": "http://127.0.0.1:9000/backend-api/codex",
            "token_url": "http://127.0.0.1:9000/oauth/token",
            "usage_url": "http://127.0.0.1:9000/backend-api/wham/usage",
        },
    ),
}
#: By dialect: the model that a scene is about, and another one.
MODELS = {"claude": ("claude-opus-4-5", "claude-sonnet-4-5"), "codex": ("gpt-5.4", "gpt-5.5")}


class Scene(World):
    """Accounts ``a1`` to ``a3``: alice and bob have a pool that prefers ``a1``, carol has ``a1`` alone.

    ``scripts`` say what an account answers to the odd request; everything else the simulator answers. Everybody has
    sessions that ``a1`` has served, and bob a request there that is still under way.
    """

    def __init__(self, case: SynchronousTestCase, dialect: str) -> None:
        kind, upstream = KINDS[dialect]
        configuration = SERVICE.format(
            kind=kind,
            bob=BOB,
            carol=CAROL,
            upstream=json.dumps(upstream).replace("{", "{{").replace("}", "}}"),
        )
        is_claude = dialect == "claude"
        super().__init__(
            case, configuration=configuration, plan=("max_20x",) * 3, start=False, with_file=is_claude
        )
        self.dialect = dialect
        self.model, self.other_model = MODELS[dialect]
        self.all_logins: list[SimulatedAccount] = list(self.logins)
        if not is_claude:
            self.all_logins = [self.simulator.add_codex_account() for _ in ACCOUNTS]
            for tag in ACCOUNTS:
                self.write(tag)
        self.upstream_says = ScriptedUpstream(self, dict(zip(ACCOUNTS, self.all_logins, strict=True)))
        self.start()
        for user in TOKENS:
            for session in ("warm", "warm-too"):
                self.assert_served(["a1"], user, session)
        self.running = self.say("bob", "running", "[[simulate:slow;seconds=20]]")
        case.assertEqual(self.asked(), ["a1"])
        self.before = {user: self.status(user) for user in TOKENS}

    def login_of(self, tag: str) -> SimulatedAccount:
        """The simulated account with this tag."""
        return self.all_logins[ACCOUNTS.index(tag)]

    def write(self, tag: str) -> None:
        """Write an account's credential file as the official client would now."""
        with open(self.paths[ACCOUNTS.index(tag)], "wb") as file:
            file.write(self.login_of(tag).credentials_document())

    def refuse(self, said: bytes, *tags: str) -> None:
        """From now on these accounts say this to the odd request."""
        for tag in tags:
            self.upstream_says.scripts[tag] = lambda asked: said if ODD.encode() in asked else None

    def say(
        self, user: str, session: str, prompt: str = "hello", model: str | None = None, **options: Any
    ) -> Client:
        """Send a request of this user in this session."""
        model = model or self.model
        if self.dialect == "claude":
            data = message_request(
                prompt, token=TOKENS[user], session=f"{user}-{session}", model=model, **options
            )
        else:
            data = request(prompt, f"session-id: {user}-{session}", model=model)
            data = data.replace(TOKEN.encode(), TOKENS[user].encode())
        return self.send(data)

    def told(
        self, user: str, session: str, prompt: str = ODD, model: str | None = None, **options: Any
    ) -> Response:
        """What the user is told to an odd request."""
        (response,) = self.say(user, session, prompt, model, **options).responses()
        self.case.assertTrue(response.complete)
        return response

    def assert_served(
        self, tags: list[str], user: str, session: str, prompt: str = "hello", **options: Any
    ) -> Response:
        """Check that a request is served, after it was sent to these accounts in this order."""
        response = self.told(user, session, prompt, **options)
        self.case.assertEqual(
            (response.status, self.asked()), (200, tags), (user, session, response.body[:300])
        )
        return response

    def socket(self, user: str) -> ClientSocket:
        """A WebSocket of this user's, or the refusal of one."""
        client = ClientSocket(False)
        self.network.endpoint(*PROXY).connect(Factory.forProtocol(lambda: client))
        fields = (("Authorization", f"Bearer {TOKENS[user]}"), ("session-id", f"{user}-socket"))
        self.network.flush()
        client.transport.write(upgrade_request(*fields))
        self.network.flush()
        return client

    def turn(self, client: ClientSocket, prompt: str = "hello") -> list[str]:
        """The types of what a turn over a WebSocket is answered with."""
        known = len(client.messages)
        client.say(turn_message(prompt))
        self.network.advance(1)
        return [json.loads(data)["type"] for data in client.messages[known:]]

    def asked(self) -> list[str]:
        """The accounts that were asked since this was called last."""
        return self.upstream_says.asked()

    def mark(self, response: Response) -> str | None:
        """The word with which the program marks an error of its own."""
        return response.header("x-ccm-error")

    def status(self, user: str) -> dict[str, Any]:
        """What the status endpoint tells this user of the availability."""
        path = f"/{KINDS[self.dialect][0]}/v1/status"
        told = self.get(path, TOKENS[user]).json()["availability"]
        self.case.assertEqual(set(told), {"state", "reason", "reset_at", "reset_in"})
        return dict(told)

    def is_logged(self, words: str) -> bool:
        """Whether the operator can read these words."""
        return words in self.logged()

    def assert_neighbours_unchanged(self, *, is_carol_served: bool = True) -> None:
        """Check that nothing of what happened is felt by anybody else: they are where they were, and the request that
        was under way is neither cancelled nor sent again."""
        case = self.case
        case.assertEqual(self.running.received, b"")
        users = list(TOKENS) if is_carol_served else ["alice", "bob"]
        for user in users:
            case.assertEqual(self.status(user), self.before[user], user)
            self.assert_served(["a1"], user, "warm-too")
        case.assertEqual(self.asked(), [])

    def assert_nobody_charged(self) -> None:
        """Check that nothing is held against any account, and that strangers still come to the first one."""
        for account in self.accounts:
            self.case.assertTrue(account.state.holds.is_empty, account)
            self.case.assertIsNone(account.state.refused)
            self.case.assertTrue(account.is_usable())
        for user in TOKENS:
            self.assert_served(["a1"], user, "new")

    def finish(self) -> None:
        """The request that was under way is served where it was sent."""
        self.case.assertEqual(self.asked(), [])
        self.network.advance(20)
        self.case.assertEqual([response.status for response in self.running.responses()], [200])
        self.case.assertEqual(self.asked(), [])
        self.close()


def turn_message(prompt: str) -> bytes:
    """A turn as a client sends it over a WebSocket."""
    content = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}]
    return message("response.create", model=MODELS["codex"][0], store=False, input=content)
