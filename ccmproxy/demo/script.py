"""The script of ``ccmproxy demo --once``: one function for each request, with its expected outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers

from ccmproxy.demo.codex import a_codex_turn, two_codex_turns_on_a_websocket
from ccmproxy.demo.outcome import Outcome
from ccmproxy.demo.stage import ALICE, BOB, CAROL, DAVE, Demo

Step = Callable[[Demo], Coroutine[Deferred[Any], Any, Outcome]]


def _error(body: bytes) -> tuple[str, str]:
    """Type and message of an error in the dialect's format."""
    try:
        error = json.loads(body)["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "unreadable", ""


async def a_turn(demo: Demo) -> Outcome:
    """A message with a JSON response."""
    response, body, whole = await demo.ask("[[say:It works.]]")
    text = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[1]
    return Outcome(
        "a turn", "200, whole: It works.", f"{response.code}, {'whole' if whole else 'broken'}: {text}"
    )


async def a_streamed_turn(demo: Demo) -> Outcome:
    """A message with an event stream as response."""
    response, body, whole = await demo.ask("[[tokens:60]]", stream=True)
    end = "with its end" if whole and b"event: message_stop" in body else "without its end"
    return Outcome("a streamed turn", "200, with its end", f"{response.code}, {end}")


async def an_expired_token(demo: Demo) -> Outcome:
    """The account's token expires, and the client does not notice."""
    before = demo.main.counters.refreshes
    demo.main.expire_access_token()
    response, _, _ = await demo.ask("still there?")
    refreshes = demo.main.counters.refreshes - before
    return Outcome("an expired token", "200, 1 refresh", f"{response.code}, {refreshes} refresh")


async def an_overloaded_upstream(demo: Demo) -> Outcome:
    """A 529 is passed on to the client, which handles it."""
    response, body, _ = await demo.ask("hello", simulate="overloaded")
    return Outcome(
        "an overloaded upstream",
        "529 overloaded_error, relayed",
        f"{response.code} {_error(body)[0]}, relayed",
    )


async def a_cut(demo: Demo) -> Outcome:
    """The upstream breaks off in the middle of a stream, and the client sees the break."""
    response, body, whole = await demo.ask("[[tokens:60]]", stream=True, simulate="cut;at=mid")
    began = "begun" if b"event: message_start" in body else "not begun"
    return Outcome(
        "a cut upstream", "200, begun, broken", f"{response.code}, {began}, {'whole' if whole else 'broken'}"
    )


async def a_used_up_account(demo: Demo) -> Outcome:
    """The only account of this user is used up: the client is told once, and told not to retry."""
    response, body, _ = await demo.ask("hello", token=BOB)
    kind, message = _error(body)
    retry = response.headers.getRawHeaders("x-should-retry", ["-"])[0]
    return Outcome(
        "a used-up account",
        "429 rate_limit_error, x-should-retry: false, all credentials rate-limited",
        f"{response.code} {kind}, x-should-retry: {retry}, {message.partition(',')[0]}",
    )


async def an_account_that_runs_out(demo: Demo) -> Outcome:
    """An account runs out during a conversation; the other one takes over, and the client does not notice."""
    answers = []
    for prompt in ("[[say:one]]", "[[say:two]]", "[[say:three]]"):
        response, body, _ = await demo.ask(prompt, token=CAROL, session="demo-conversation")
        said = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[0]
        answers.append(said)
        demo.small.exhaust("five_hour")
    refused = demo.small.counters.refused_turns
    return Outcome(
        "an account that runs out",
        "one two three, 1 refusal behind the scenes",
        f"{' '.join(answers)}, {refused} refusal behind the scenes",
    )


async def a_borrowed_turn(demo: Demo) -> Outcome:
    """Another instance, which cannot dial this one, is served over a connection that this one has made to it."""
    for _ in range(50):
        state = await demo.client.get(
            f"http://127.0.0.1:{demo.neighbour_port}/ccm/v1/status",
            headers=Headers({"Authorization": [f"Bearer {DAVE}"]}),
        )
        if (await state.json())["availability"]["state"] == "usable":
            break
        await deferLater(demo.reactor, 0.1)
    response, body, _ = await demo.ask("[[say:lent]]", token=DAVE, port=demo.neighbour_port)
    text = json.loads(body)["content"][0]["text"] if response.code == 200 else _error(body)[1]
    return Outcome("a borrowed turn", "200: lent", f"{response.code}: {text}")


async def an_unknown_token(demo: Demo) -> Outcome:
    """A request without a valid token is rejected."""
    response, body, _ = await demo.ask("hello", token="guessed")
    return Outcome("an unknown token", "401 authentication_error", f"{response.code} {_error(body)[0]}")


async def the_status(demo: Demo) -> Outcome:
    """The state of the pool as a user sees it."""
    response = await demo.client.get(
        f"{demo.url}/ccm/v1/status", headers=Headers({"Authorization": [f"Bearer {ALICE}"]})
    )
    state = await response.json()
    return Outcome(
        "the status",
        "200, usable, weight 10",
        f"{response.code}, {state['availability']['state']}, weight {state['plan_weight']:g}",
    )


SCRIPT: tuple[Step, ...] = (
    a_turn,
    a_streamed_turn,
    an_expired_token,
    an_overloaded_upstream,
    a_cut,
    a_used_up_account,
    an_account_that_runs_out,
    a_borrowed_turn,
    an_unknown_token,
    the_status,
    a_codex_turn,
    two_codex_turns_on_a_websocket,
)
