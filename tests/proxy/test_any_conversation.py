"""What holds of a whole service whatever clients send and upstreams say (spec 12): properties over conversations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.credential import Credential
from ccmproxy.policy.opinions import MOST_ASKED, RefusalClass, most_sends
from tests.conversation import TOKEN, Client
from tests.pooled import BOB, PoolWorld
from tests.profiles import examples
from tests.proxy.manual_upstream import MESSAGE, START, event
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import ScriptedUpstream, refusal

DISABLED = "This organization has been disabled."
NOT_ALLOWED = "OAuth authentication is currently not allowed for this organization."
REVOKED = "OAuth token has been revoked. Please obtain a new token."
#: Words that a client may want an upstream to repeat.
WORDS = (
    DISABLED,
    NOT_ALLOWED,
    REVOKED,
    "deactivated_workspace",
    "usage_limit_reached",
    "rejected",
    "größer 🙂",
)


def stream(kind: str) -> bytes:
    """A stream that begins with an error."""
    payload = {"type": "error", "error": {"type": kind, "message": "no"}}
    return http_response(200, body=event("error", json.dumps(payload)), content_type="text/event-stream")


#: Refusals that neither figures nor known words explain, by their class.
BARE = {
    "busy": (RefusalClass.BUSY, refusal(429, "slow down", kind="rate_limit_error")),
    "busy for 20 s": (RefusalClass.BUSY, refusal(429, "slow down", ("Retry-After", "20"))),
    "unauthorized": (RefusalClass.LOGIN, refusal(401, "who is that?", kind="authentication_error")),
    "forbidden": (RefusalClass.DENIED, refusal(403, "computer says no", kind="permission_error")),
    "to be paid": (RefusalClass.DENIED, refusal(402, "please pay", kind="billing_error")),
    "not with this plan": (RefusalClass.DENIED, refusal(400, "Your organization does not do that.")),
    "overloaded stream": (RefusalClass.STREAM, stream("overloaded_error")),
}
#: A stream that begins well, and then says that it is refused.
MIDWAY = "mid-stream"
#: Everything else that is said, and what it says by itself.
OTHER = {
    "overloaded": refusal(529, "overloaded", kind="overloaded_error"),
    "broken": refusal(500, "oh", kind="api_error"),
    "too long": refusal(400, "prompt is too long: 250000 tokens > 200000 maximum"),
    "long context": refusal(429, "Extra usage is required for long context requests."),
    "not JSON": http_response(403, body=b"<html>no</html>", content_type="text/html"),
    "nothing": http_response(403, body=b""),
    "not HTTP": b"\0\1\2\r\n\r\n",
    MIDWAY: http_response(
        200,
        body=START + event("error", '{"type":"error","error":{"type":"rate_limit_error"}}'),
        content_type="text/event-stream",
    ),
    "disabled": refusal(403, DISABLED, kind="permission_error"),
    "used up": refusal(
        429,
        "used up",
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
        ("anthropic-ratelimit-unified-5h-status", "rejected"),
        ("anthropic-ratelimit-unified-5h-reset", "1795007200"),
        ("anthropic-ratelimit-unified-reset", "1795007200"),
        kind="rate_limit_error",
    ),
}
#: Answers that say by themselves what is charged to the account that gives them.
TELLING = {"disabled", "used up"}
SERVED = "served"
#: What a request that it is said to was served by, as far as that can be told when its first byte passes.
SERVING = {SERVED, MIDWAY}
#: The upstream repeats what the client has sent, as the whole sentence of a refusal.
ECHO = "echo"
SAID = (SERVED, ECHO, *BARE, *OTHER)


@dataclass(frozen=True)
class Sent:
    """One request, and what each account says to it. ``words``: in a header field, the model, or the path."""

    is_alice: bool
    session: str | None
    model: str
    words: str
    place: str
    is_stream: bool
    counts: bool
    said: tuple[str, ...]
    status: int
    pause: float


#: So many accounts say something of their own; of more, the next ones say the same again.
MOST_DIFFERENT = 4
numbers_of_accounts = st.sampled_from([1, 2, 2, 3, 4, 10])
#: After so long without an answer the request that is under way has failed by itself (seconds).
TIMEOUT = 290
requests = st.builds(
    Sent,
    st.booleans(),
    st.sampled_from([None, "warm", "running", "s", "t", "u"]),
    st.sampled_from(["claude-opus-4-5", "claude-sonnet-4-5", "made-up", ""]),
    st.sampled_from(WORDS),
    st.sampled_from(["header", "path", "model"]),
    st.booleans(),
    st.booleans(),
    st.tuples(*[st.sampled_from(SAID)] * MOST_DIFFERENT)
    | st.sampled_from(SAID).map(lambda said: (said,) * MOST_DIFFERENT),
    st.sampled_from([400, 401, 402, 403, 429]),
    st.sampled_from([0.0, 0.0, 1.0, 6.0, 61.0]),
)


def charged(credential: Credential) -> tuple[object, ...]:
    """What is held against a credential."""
    state = credential.state
    holds = state.holds
    until = {
        *((key, hold.until, hold.since) for key, hold in holds.combinations.items()),
        *((key, hold.until, hold.since) for key, hold in holds.models.items()),
    }
    rest = holds.account and (holds.account.until, holds.account.since)
    refused = state.refused and state.refused.since
    return until, rest, refused, state.rate_limited_until


class Conversation:
    """A pool in which bob has a request under way and a warm session, and which then is sent anything."""

    def __init__(self, case: SynchronousTestCase, accounts: int) -> None:
        self.case = case
        self.world = PoolWorld(case, ("max_20x",) * accounts, strategy="fallback")
        self.upstream = ScriptedUpstream(self.world)
        #: By whether it is alice's, and session: which accounts refused the last request in mid-stream.
        self.midway: dict[tuple[bool, str | None], set[str]] = {}
        case.assertEqual(self.world.answer(session="warm", token=BOB).status, 200)
        self.upstream.scripts["a1"] = b""
        self.running = self.world.ask(session="running", token=BOB)
        case.assertEqual(self.upstream.asked(), ["a1", "a1"])
        self.upstream.scripts.clear()

    def answers(self, sent: Sent) -> None:
        """Let every account say what is drawn for it."""
        words = sent.words.encode()
        for number, account in enumerate(self.world.accounts):
            said = sent.said[number % MOST_DIFFERENT]
            if said == SERVED:
                body = MESSAGE if sent.is_stream else b'{"type":"message","usage":{"input_tokens":1}}'
                kind = "text/event-stream" if sent.is_stream else "application/json"
                script = http_response(200, body=body, content_type=kind)
            elif said == ECHO:
                echo = {"type": "error", "error": {"type": "error", "message": words.decode()}}
                script = http_response(sent.status, body=json.dumps(echo).encode())
            else:
                script = BARE[said][1] if said in BARE else OTHER[said]
            self.upstream.scripts[account.tag] = script

    def send(self, sent: Sent) -> Client:
        """Send the request, with its words where it has them."""
        path = "/v1/messages/count_tokens" if sent.counts else "/v1/messages"
        model = sent.model
        headers: tuple[tuple[str, str], ...] = ()
        if sent.place == "path":
            path += "?note=" + "".join(f"%{byte:02x}" for byte in sent.words.encode())
        elif sent.place == "model":
            model = sent.words
        else:
            headers = (("X-Note", sent.words),)
        return self.world.ask(
            session=sent.session,
            token=TOKEN if sent.is_alice else BOB,
            model=model,
            headers=headers,
            path=path,
            stream=sent.is_stream,
        )

    def check(self, sent: Sent) -> None:
        """Send the request, and check who is asked, who is charged, and what the client gets."""
        case, world = self.case, self.world
        self.answers(sent)
        before = {account.tag: charged(account) for account in world.accounts}
        refused = {account.tag for account in world.accounts if account.state.refused is not None}
        client = self.send(sent)
        asked = self.upstream.asked()
        said = {
            account.tag: sent.said[number % MOST_DIFFERENT] for number, account in enumerate(world.accounts)
        }
        heard = [said[tag] for tag in asked]

        case.assertLessEqual(len(asked), most_sends(len(world.accounts)), sent)
        responses = client.responses()
        if responses:
            case.assertNotEqual(responses[0].status, 401, sent)
        if heard and heard[0] in BARE:
            # Others are asked about the first refusal, and not more of them than its class allows.
            case.assertLessEqual(len(set(asked) - {asked[0]}) + 1, self.most(heard), sent)

        after = {account.tag: charged(account) for account in world.accounts}
        changed = {tag for tag in before if not self.is_less(before[tag], after[tag])}
        # Who was not asked is not charged, unless it refused the session's last request in mid-stream: this one is the
        # second opinion on that.
        key = sent.is_alice, sent.session
        midway, self.midway[key] = self.midway.get(key, set()), {tag for tag in asked if said[tag] == MIDWAY}
        case.assertLessEqual(changed, set(asked) | midway, sent)
        changed &= set(asked)
        newly = {account.tag for account in world.accounts if account.state.refused is not None} - refused
        case.assertLessEqual(len(newly), 1, sent)
        serving = {*SERVING, "overloaded stream"} if sent.counts else SERVING
        served_elsewhere = {
            tag for tag in changed | newly if any(said[each] in serving for each in asked if each != tag)
        }
        for tag in changed:
            # By itself nothing tells but known words and figures; else another account has served it.
            if said[tag] not in TELLING and tag not in served_elsewhere:
                case.assertTrue(self.is_pattern(world.accounts, tag), (sent, asked, before[tag], after[tag]))
        for tag in newly:
            # Nor is an account refused for what the client has said itself.
            if said[tag] == ECHO:
                case.assertTrue(self.is_pattern(world.accounts, tag, tag in served_elsewhere), sent)
        self.upstream.scripts.clear()

    def most(self, heard: Sequence[str]) -> int:
        """How many accounts may be asked where the first answer is a refusal that nothing explains."""
        most = MOST_ASKED[BARE[heard[0]][0]]
        # An account that turns out to be refused is charged for it, and an answer that is lost may have been acted on.
        return most + sum(each in TELLING for each in heard)

    def is_pattern(self, accounts: Sequence[Credential], tag: str, by_model: bool = False) -> bool:
        """Whether different callers were refused by this account with nothing served in between. ``by_model``: or
        requests for different models, which count where another account has served the like."""
        (account,) = (each for each in accounts if each.tag == tag)
        refusals = account.state.refusals
        models = {each.model for each in refusals} if by_model else set()
        return max(len({each.caller for each in refusals}), len(models)) > 1

    def is_less(self, before: tuple[object, ...], after: tuple[object, ...]) -> bool:
        """Whether nothing is held against a credential that was not held before."""
        holds, *others = after
        known, *earlier = before
        assert isinstance(holds, set) and isinstance(known, set)
        lifted = {each for each in holds if each[1] == 0}
        return holds - lifted <= known and all(
            new == old or not new or (isinstance(new, tuple) and new[0] == 0)
            for new, old in zip(others, earlier, strict=True)
        )

    def end(self, sent: Sequence[Sent]) -> None:
        """Whatever was said to others: what the upstream has accepted is still waited for, and a warm session stays
        unless its account is used up, refused, or denies what it asks for."""
        case, world = self.case, self.world
        pause = sum(each.pause for each in sent)
        if pause < TIMEOUT:
            case.assertEqual(self.running.received, b"", sent)
        account = world.accounts[0]
        state = account.state
        denials = [hold for hold in state.holds.combinations.values() if not hold.is_rest]
        others = any(each.session == "warm" and not each.is_alice for each in sent)
        if account.is_usable() and not denials and not others and pause < 240:
            case.assertEqual(world.answer(session="warm", token=BOB).status, 200)
            case.assertEqual(self.upstream.asked(), ["a1"], sent)
        world.close()


class AnyRequestTests(SynchronousTestCase):
    """No request makes more accounts be asked, or be charged, than spec 12.1 allows, whatever its content."""

    @examples(60)
    @given(numbers_of_accounts, st.lists(requests, min_size=1, max_size=8))
    def test_who_is_asked_and_charged(self, accounts: int, sent: list[Sent]) -> None:
        conversation = Conversation(self, accounts)
        for each in sent:
            conversation.check(each)
            conversation.world.network.advance(each.pause)
        conversation.end(sent)

    def test_refused_for_two_models(self) -> None:
        """What another account has served tells, although one caller has asked, and has said one of the sentences."""
        odd = Sent(False, None, "claude-opus-4-5", DISABLED, "header", False, False, (SERVED,) * 4, 400, 0.0)
        conversation = Conversation(self, 2)
        sent = [
            odd,
            replace(odd, said=("unauthorized", SERVED, SERVED, SERVED)),
            replace(odd, place="model", said=(ECHO, SERVED, SERVED, SERVED), status=401),
        ]
        for each in sent:
            conversation.check(each)
        self.assertIsNotNone(conversation.world.accounts[0].state.refused)
        conversation.end(sent)

    @examples(25)
    @given(numbers_of_accounts, st.sampled_from(sorted(BARE)), st.lists(requests, max_size=8))
    def test_nobody_is_charged_for_what_all_refuse_alike(
        self, accounts: int, said: str, sent: list[Sent]
    ) -> None:
        """However many sessions, models and paths a caller makes up."""
        conversation = Conversation(self, accounts)
        for each in sent:
            alike = Sent(
                True,
                each.session,
                each.model,
                each.words,
                each.place,
                each.is_stream,
                each.counts,
                (said,) * MOST_DIFFERENT,
                each.status,
                each.pause,
            )
            conversation.check(alike)
            for account in conversation.world.accounts:
                self.assertTrue(account.state.holds.is_empty, alike)
                self.assertIsNone(account.state.refused, alike)
                self.assertTrue(account.is_usable(), alike)
            conversation.world.network.advance(each.pause)
        conversation.end(sent)


#: Troubles of every kind that pass, by the endpoint that has them, as the simulator calls them. A token endpoint that
#: says ``invalid_grant`` is none of them: that login is dead.
TROUBLES = {
    "turn": (
        "rate_limited",
        "rate_limited;retry_after=40",
        "unauthorized",
        "revoked",
        "forbidden",
        "overloaded",
        "hang",
    ),
    "usage": (
        "server_error",
        "rate_limited;retry_after=99999",
        "forbidden",
        "unauthorized",
        "nonsense",
        "hang",
    ),
    "token": (
        "server_error",
        "rate_limited;retry_after=99999",
        "rate_limited",
        "broken_json",
        "forbidden",
        "hang",
    ),
    "profile": ("server_error", "unauthorized"),
}
troubles = st.one_of(
    *[st.tuples(st.just(endpoint), st.sampled_from(faults)) for endpoint, faults in TROUBLES.items()]
)
happenings = st.one_of(
    troubles,
    st.tuples(st.just("says"), st.sampled_from(sorted({**BARE, **OTHER}))),
    st.tuples(st.just("says nothing"), st.just("")),
    st.tuples(st.just("clear"), st.just("")),
    st.tuples(st.just("exhaust"), st.sampled_from(["five_hour", "seven_day"])),
    st.tuples(st.just("expire"), st.just("")),
    st.tuples(st.just("revoke"), st.just("")),
    st.tuples(st.just("ask"), st.sampled_from([TOKEN, BOB])),
    st.tuples(st.just("ask"), st.sampled_from([TOKEN, BOB])),
    st.tuples(st.just("wait"), st.sampled_from(["1", "30", "130", "1000", "4000"])),
)
#: An account is used again so long after the last trouble is over (seconds): one whose windows are full is polled every
#: hour, one that is refused every 30 min, and a poll may be postponed by 15 min.
BOUND = 76 * 60


class AnyTroubleTests(SynchronousTestCase):
    """No state is left only by a restart or a touched file, except a dead login (spec 12.4)."""

    @examples(25)
    @given(st.integers(1, 2), st.lists(happenings, max_size=14))
    def test_it_ends_by_itself(self, accounts: int, story: list[tuple[str, str]]) -> None:
        """Once the provider is well again, time and requests are enough: every account serves."""
        world = PoolWorld(self, ("max_20x",) * accounts, strategy="fallback")
        upstream = ScriptedUpstream(world)
        simulator = world.simulator
        for what, which in story:
            match what:
                case "says":
                    said = BARE[which][1] if which in BARE else OTHER[which]
                    upstream.scripts["a1"] = said
                case "says nothing":
                    upstream.scripts.clear()
                case "clear":
                    simulator.faults.clear()
                case "exhaust":
                    world.login.exhaust(which)
                case "expire":
                    world.login.expire_access_token()
                case "revoke":
                    world.login.revoke()
                case "ask":
                    world.ask(token=which)
                case "wait":
                    for _ in range(10):
                        world.network.advance(int(which) / 10)
                case _:
                    simulator.faults.always(which, endpoint=what)  # type: ignore[arg-type]
        simulator.faults.clear()
        upstream.scripts.clear()
        world.login.reset()
        served: list[int] = []
        for moment in range(BOUND // 30):
            clients = [world.ask(token=user, session=f"s-{moment}") for user in (TOKEN, BOB)]
            # A refresh that hangs is given up after some seconds, and its requests with it.
            world.network.advance(30)
            served = [response.status for client in clients for response in client.responses()]
            if served == [200, 200] and world.accounts[0].is_usable():
                break
        self.assertEqual(served, [200, 200], (story, world.accounts[0].state))
        self.assertTrue(world.accounts[0].is_usable(), (story, world.accounts[0].state))
        world.close()
