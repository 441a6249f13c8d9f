"""Requests, errors and states between instances (spec 4.3, 4.4, 7.1, 8.2)."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.oauth import AnswerMalformed, RemoteToken
from ccmproxy.dialects.remote import RemoteStatus, read_status, relayed_mark, remote_head, remote_verdict
from ccmproxy.http.headers import HOPS, MOST_HOPS, hops
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, values
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW
from tests.profiles import examples

TOKEN = RemoteToken("our-token")
NOW = 1_795_000_000.0


def sent(
    *headers: tuple[bytes, bytes], target: bytes = b"/v1/messages?beta=true", **more: Any
) -> RequestHead:
    """A client's request as it goes to ``friend.test``."""
    head = RequestHead(b"POST", target, [(b"Host", b"proxy"), *headers])
    return remote_head(head, TOKEN, b"friend.test:8080", more.pop("base_path", b""), **more)


class HeadTests(SynchronousTestCase):
    """The request to another instance (spec 7.1)."""

    def test_path_and_query_are_kept(self) -> None:
        self.assertEqual(sent().target, b"/v1/messages?beta=true")
        self.assertEqual(sent(base_path=b"/team/a").target, b"/team/a/v1/messages?beta=true")
        self.assertEqual(sent(target=b"/v1/x%2Fy?a=b&a=%20#").target, b"/v1/x%2Fy?a=b&a=%20#")
        self.assertEqual(sent().method, b"POST")

    def test_our_token_in_place_of_the_users(self) -> None:
        """Whichever field authenticated the user, and however it is spelt."""
        for name in (b"Authorization", b"authorization", b"AUTHORIZATION", b"X-Api-Key", b"api-key"):
            head = sent((name, b"Bearer users-token"))
            self.assertEqual(values(head.headers, b"authorization"), [b"Bearer our-token"])
            self.assertNotIn(b"users-token", b"".join(value for _, value in head.headers))

    def test_host(self) -> None:
        self.assertEqual(values(sent().headers, b"host"), [b"friend.test:8080"])

    def test_fields_pass_as_they_are(self) -> None:
        passing: Headers = [
            (b"anthropic-beta", b"oauth-2025-04-20,context-1m"),
            (b"Anthropic-Beta", b"another"),
            (b"User-Agent", b"claude-cli/2"),
            (b"X-Claude-Code-Session-Id", b"0815"),
            (b"Content-Encoding", b"zstd"),
        ]
        self.assertEqual(sent(*passing).headers[1 : 1 + len(passing)], passing)

    def test_fields_that_do_not_pass(self) -> None:
        head = sent(
            (b"Connection", b"X-Mine, close"),
            (b"X-Mine", b"1"),
            (b"TE", b"trailers"),
            (b"Upgrade", b"h2c"),
            (b"Proxy-Authorization", b"Basic x"),
            (b"CF-Ray", b"1"),
            (b"X-Forwarded-For", b"10.0.0.1"),
            (b"Forwarded", b"for=10.0.0.1"),
            (b"Expect", b"100-continue"),
            (b"Accept-Encoding", b"br"),
            dropped=(b"accept-encoding",),
        )
        self.assertEqual(
            [name for name, _ in head.headers], [b"Host", b"Authorization", HOPS, b"Accept-Encoding"]
        )
        self.assertEqual(values(head.headers, b"accept-encoding"), [b"identity"], "spec 12.5")

    def test_every_instance_counts(self) -> None:
        self.assertEqual(values(sent().headers, HOPS), [b"1"])
        self.assertEqual(values(sent((b"X-CCM-Hops", b"3")).headers, HOPS), [b"4"])

    def test_a_ring_comes_to_an_end(self) -> None:
        head = RequestHead(b"POST", b"/v1/messages", [])
        passed = 0
        while hops(head.headers) <= MOST_HOPS and passed < 100:
            head = remote_head(head, TOKEN, b"friend.test", b"")
            passed += 1
        self.assertEqual(passed, MOST_HOPS + 1)

    def test_counts_that_make_no_sense(self) -> None:
        """A malformed hop count counts as too many, and stays too many."""
        for value in (b"", b" ", b"-1", b"1.0", b"0x1", b"1e0", b"+1", b"9999", b"1" * 500, b"\xb2", b"1,1"):
            head = sent((HOPS, value))
            (passed,) = values(head.headers, HOPS)
            self.assertGreater(int(passed), MOST_HOPS, value)
            self.assertGreater(hops(head.headers), MOST_HOPS, value)

    def test_only_one_count_passes(self) -> None:
        head = sent((HOPS, b"2"), (b"X-Ccm-Hops", b"0"))
        self.assertEqual(values(head.headers, HOPS), [b"3"])


DIALECT = Verdict(AnswerKind.OTHER, until=5.0)
RELAYED = (b"X-CCM-Request-Id", b"req_1")


def verdict(status: int, *headers: tuple[bytes, bytes], kind: Verdict = DIALECT) -> Verdict:
    """The verdict on another instance's response, if the dialect's verdict is ``kind``."""
    return remote_verdict(ResponseHead(status, b"", list(headers)), kind, NOW)


def own_error(reason: bytes, name: bytes = b"X-CCM-Error") -> tuple[tuple[bytes, bytes], ...]:
    """The fields of a ccmproxy's own error."""
    return RELAYED, (name, reason)


class VerdictTests(SynchronousTestCase):
    """Whose error it is (spec 4.4)."""

    def test_400_about_credentials(self) -> None:
        for name in (b"X-CCM-Error", b"x-ccm-error", b"X-Ccm-Error"):
            self.assertIs(
                verdict(400, *own_error(b"credential_unavailable", name)).kind, AnswerKind.REMOTE_UNAVAILABLE
            )

    def test_400_about_the_request(self) -> None:
        """The 400 is about the client's request: it is passed on, and no credential is marked."""
        for reason in (b"fast_mode", b"api_key", b"body_malformed", b"malformed_request", b"unheard_of", b""):
            self.assertIs(verdict(400, *own_error(reason)), DIALECT, reason)

    def test_400_of_an_upstream(self) -> None:
        """A ccmproxy that relays an upstream's 400 adds its request id."""
        for name in (b"X-CCM-Request-Id", b"x-ccm-request-id", b"X-OCM-Request-Id", b"x-ocm-request-id"):
            self.assertIs(verdict(400, (name, b"req_1")), DIALECT)

    def test_400_of_sing_box(self) -> None:
        """A 400 of sing-box has neither field."""
        self.assertIs(verdict(400).kind, AnswerKind.REMOTE_REJECTED)
        self.assertIs(verdict(400, (b"request-id", b"req_1")).kind, AnswerKind.REMOTE_REJECTED)

    def test_errors_that_pass(self) -> None:
        """The request was not processed, and a minute later the outcome may be different."""
        for status, reason in (
            (503, b"credential_delayed"),
            (503, b"shutting_down"),
            (508, b"too_many_hops"),
            (429, b"too_many_requests"),
            (403, b"model_not_allowed"),
            (502, b"upstream_auth"),
            (502, b"upstream_unreachable"),
        ):
            self.assertIs(verdict(status, *own_error(reason)).kind, AnswerKind.REMOTE_BUSY, reason)

    def test_a_short_wait(self) -> None:
        """Spec 12.2: in the words of its client, which may be a 503."""
        for status in (429, 503):
            found = verdict(status, *own_error(b"busy"), (b"Retry-After", b"7"))
            self.assertEqual(found, Verdict(AnswerKind.BUSY, wait=7.0))

    def test_used_up(self) -> None:
        reset = (b"X-CCM-Reset-At", b"1795003600")
        limited = own_error(b"rate_limited")
        self.assertEqual(verdict(429, *limited, reset), Verdict(AnswerKind.RATE_LIMITED, 1795003600.0))
        self.assertEqual(
            verdict(429, *limited, reset, (b"X-CCM-Limit", b"another word")),
            Verdict(AnswerKind.RATE_LIMITED, 1795003600.0),
        )

    def test_one_model_is_used_up(self) -> None:
        """That says nothing of the remote's other models (spec 12)."""
        for fields, until in (((b"X-CCM-Reset-At", b"1795003600"),), 1795003600.0), ((), 0.0):
            found = verdict(429, *own_error(b"rate_limited"), (b"X-CCM-Limit", b"model_window"), *fields)
            self.assertEqual(found, Verdict(AnswerKind.MODEL_RATE_LIMITED, until))

    def test_used_up_until_a_time(self) -> None:
        """Without a time that makes sense it is what the dialect takes it for."""
        for field in (b"X-CCM-Reset-At", b"x-ccm-reset-at"):
            found = verdict(429, *own_error(b"rate_limited"), (field, b"1800000000"))
            self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, 1.8e9))
        for value in (b"", b"soon", b"-5", b"1e999"):
            found = verdict(429, *own_error(b"rate_limited"), (b"X-CCM-Reset-At", value))
            self.assertIs(found, DIALECT, value)

    def test_used_up_for_some_time(self) -> None:
        """The number of seconds is right whatever the remote's clock says."""
        at = (b"X-CCM-Reset-At", b"1795003600")
        for name in (b"X-CCM-Reset-In", b"x-ccm-reset-in"):
            for fields in ([(name, b"20")], [at, (name, b"20")], [(name, b"20"), at]):
                found = verdict(429, *own_error(b"rate_limited"), *fields)
                self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, NOW + 20.0))
                found = verdict(429, *own_error(b"rate_limited"), (b"X-CCM-Limit", b"model_window"), *fields)
                self.assertEqual(found, Verdict(AnswerKind.MODEL_RATE_LIMITED, NOW + 20.0))
        for value in (b"", b"soon", b"-5", b"1e3", b"99999999999"):
            found = verdict(429, *own_error(b"rate_limited"), at, (b"X-CCM-Reset-In", value))
            self.assertEqual(found, Verdict(AnswerKind.RATE_LIMITED, 1795003600.0), value)

    def test_a_token_that_was_wrong_too_often(self) -> None:
        """The remote rejects our token for a while: that is no rate limit."""
        self.assertIs(verdict(429, *own_error(b"too_many_failures")).kind, AnswerKind.REMOTE_REJECTED)

    def test_everything_else_is_the_dialects_business(self) -> None:
        for status, headers in (
            (200, (RELAYED,)),
            (200, ()),
            (401, own_error(b"unauthenticated")),
            (401, ()),
            (403, ()),
            (429, own_error(b"rate_limited")),
            (429, ()),
            (502, ()),
            (502, own_error(b"upstream_lost")),
            (504, own_error(b"upstream_timeout")),
            (503, ()),
            (508, ()),
            (529, (RELAYED,)),
            (500, own_error(b"internal_error")),
            (404, own_error(b"not_found")),
        ):
            self.assertIs(verdict(status, *headers), DIALECT, (status, headers))

    def test_what_a_provider_says_of_one_of_its_accounts(self) -> None:
        """The remote relays it, and has learnt it itself: it is charged with nothing (spec 12)."""
        for kind in (
            AnswerKind.ACCOUNT_REFUSED,
            AnswerKind.MODEL_REFUSED,
            AnswerKind.AUTH_FAILED,
            AnswerKind.RATE_LIMITED,
            AnswerKind.MODEL_RATE_LIMITED,
        ):
            said = Verdict(kind, until=5.0, sentence="closed")
            for status in (200, 400, 402, 403, 429):
                found = verdict(status, RELAYED, kind=said)
                self.assertEqual(found, Verdict(AnswerKind.REMOTE_BUSY, sentence="closed"), (kind, status))
            # Our own token is meant, or the remote is none of ccmproxy.
            self.assertIs(verdict(401, RELAYED, kind=said), said)
            self.assertIs(verdict(403, kind=said), said)

    def test_a_relayed_refusal_about_anything_else(self) -> None:
        for kind in (AnswerKind.OK, AnswerKind.BUSY, AnswerKind.DENIED, AnswerKind.STREAM_FAILED):
            said = Verdict(kind)
            self.assertIs(verdict(403, RELAYED, kind=said), said)

    def test_a_429_without_a_word(self) -> None:
        """Spec 14: sing-box makes one of a provider's 400. A wait that is named is one."""
        burst = Verdict(AnswerKind.BUSY, is_final=True, sentence="no")
        for headers in ((), (RELAYED,)):
            found = verdict(429, *headers, kind=burst)
            self.assertEqual(found, Verdict(AnswerKind.REMOTE_BUSY, is_final=True, sentence="no"))
        waits = Verdict(AnswerKind.BUSY, wait=5.0)
        self.assertIs(verdict(429, kind=waits), waits)
        used_up = Verdict(AnswerKind.RATE_LIMITED, 5.0)
        self.assertIs(verdict(429, kind=used_up), used_up)
        self.assertIs(verdict(429, *own_error(b"interrupted"), kind=burst), burst)
        self.assertIs(verdict(403, kind=burst), burst)

    def test_the_mark_that_is_relayed(self) -> None:
        """Spec 14: what a remote says of itself is kept only where it is true of us as well."""
        for reason, kept in (
            (b"shutting_down", True),
            (b"upstream_unreachable", True),
            (b"busy", True),
            (b"credential_unavailable", True),
            (b"too_many_failures", False),
            (b"unauthenticated", False),
            (b"rate_limited", False),
            (b"fast_mode", False),
            (b"", False),
        ):
            head = ResponseHead(503, b"", [*own_error(reason), (b"X-CCM-Reset-At", b"1")])
            self.assertEqual(relayed_mark(head), [(b"X-CCM-Error", reason)] if kept else [], reason)
        self.assertEqual(relayed_mark(ResponseHead(503, b"", [RELAYED])), [])
        self.assertEqual(relayed_mark(ResponseHead(200, b"", list(own_error(b"busy")))), [])

    def test_a_400_is_never_held_back(self) -> None:
        """Whatever reason the remote names: another credential would get the same response."""
        for reason in (b"shutting_down", b"too_many_hops", b"upstream_unreachable"):
            self.assertIs(verdict(400, *own_error(reason)), DIALECT)


STATE: dict[str, Any] = {
    "five_hour_utilization": 12.5,
    "five_hour_reset": 1_800_000_000,
    "weekly_utilization": 80,
    "weekly_reset": 0,
    "plan_weight": 15.0,
}
#: JSON, or nearly JSON, for values that are not numbers.
NO_NUMBERS = (
    "null",
    "true",
    "false",
    '"5"',
    "[5]",
    "{}",
    "-1",
    "-0.001",
    "1e300",
    "1" * 400,
    "-" + "1" * 400,
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "0x5",
)
#: Unexpected values for any field.
ODD_VALUES: list[Any] = [
    None,
    True,
    "1",
    [],
    {},
    [1],
    10**400,
    -(10**400),
    {"state": "usable", "reset_at": 1},
    {"state": "rate_limited", "reset_at": 10**400},
    {"state": [], "reset_at": {}},
    {"state": "usable", "reset_at": float("nan")},
]


def state(**fields: Any) -> bytes:
    """A state, with these fields changed."""
    return json.dumps(STATE | fields).encode()


class StatusTests(SynchronousTestCase):
    """The status that a remote reports (spec 7.5, 8.2)."""

    def refused(self, document: bytes) -> str:
        """The message of the refusal."""
        with self.assertRaises(AnswerMalformed) as raised:
            read_status(document)
        return str(raised.exception)

    def test_a_state(self) -> None:
        status = read_status(state())
        short, weekly = status.limits.short, status.limits.weekly
        assert short is not None and weekly is not None
        self.assertEqual((short.utilization, short.resets_at, short.length), (12.5, 1.8e9, SHORT_WINDOW))
        self.assertEqual((weekly.utilization, weekly.resets_at, weekly.length), (80.0, 0.0, WEEKLY_WINDOW))
        self.assertEqual((status.plan_weight, status.usable, status.reset_at), (15.0, None, 0.0))

    def test_availability(self) -> None:
        """Only ccmproxy sends it."""
        for availability, expected in (
            ({"state": "usable", "reason": "", "reset_at": 0}, (True, 0.0)),
            ({"state": "rate_limited", "reason": "weekly_window", "reset_at": 1_800_000_000}, (False, 1.8e9)),
            ({"state": "unavailable"}, (False, 0.0)),
            ({"state": "a new word", "reset_at": "soon"}, (False, 0.0)),
            ({"state": "rate_limited", "reset_at": -5}, (False, 0.0)),
            ({"state": "rate_limited", "reset_at": 1e300}, (False, 0.0)),
            ({"state": True}, (None, 0.0)),
            ({}, (None, 0.0)),
            (None, (None, 0.0)),
            ("usable", (None, 0.0)),
            ([{"state": "usable"}], (None, 0.0)),
        ):
            status = read_status(state(availability=availability))
            self.assertEqual((status.usable, status.reset_at), expected, availability)

    def test_until_when(self) -> None:
        """The number of seconds, if there is one: the remote's clock may be wrong, or ours."""
        now = 1_800_000_000.0
        for times, until in (
            ({"reset_at": now + 600}, now + 600),
            ({"reset_at": now - 600}, 0.0),
            ({"reset_at": now + 600, "reset_in": 20}, now + 20),
            ({"reset_at": now - 600, "reset_in": 20}, now + 20),
            ({"reset_in": 20.5}, now + 20.5),
            ({"reset_at": now + 600, "reset_in": 0}, 0.0),
            ({"reset_at": now + 600, "reset_in": -1}, now + 600),
            ({"reset_at": now + 600, "reset_in": 1e9}, now + 600),
            ({"reset_at": now + 600, "reset_in": "20"}, now + 600),
            ({"reset_at": now + 600, "reset_in": None}, now + 600),
            ({}, 0.0),
        ):
            for word, reason, expected in (
                ("rate_limited", "rate_limited", until),
                ("temporarily_blocked", "refused", 0.0),
                ("temporarily_blocked", "poll_failed", 0.0),
                ("usable", "", 0.0),
            ):
                status = read_status(state(availability={"state": word, "reason": reason, **times}))
                self.assertEqual(status.unusable_until(now), expected, times)

    def test_out_of_service(self) -> None:
        """Full windows say nothing where it is something else that keeps the remote from serving."""
        for state_word, reason, cannot_serve in (
            ("unavailable", "unavailable", True),
            ("temporarily_blocked", "refused", True),
            ("temporarily_blocked", "rejected", True),
            ("temporarily_blocked", "poll_failed", False),
            ("rate_limited", "short_window", False),
            ("usable", "", False),
            ("a new word", "", False),
        ):
            availability = {"state": state_word, "reason": reason, "reset_at": 0}
            self.assertIs(read_status(state(availability=availability)).cannot_serve, cannot_serve, reason)

    def test_every_field_is_required(self) -> None:
        for name in STATE:
            document = json.dumps({key: value for key, value in STATE.items() if key != name}).encode()
            self.assertEqual(self.refused(document), f"the remote's status has no valid {name}")

    def test_what_is_no_number(self) -> None:
        for name in STATE:
            for value in NO_NUMBERS:
                document = state(**{name: "HERE"}).replace(b'"HERE"', value.encode())
                said = self.refused(document)
                self.assertIn(
                    said, (f"the remote's status has no valid {name}", "the remote's status is not JSON")
                )

    def test_bounds(self) -> None:
        self.assertEqual(read_status(state(plan_weight=0)).plan_weight, 0.0)
        self.assertEqual(read_status(state(plan_weight=1e9)).plan_weight, 1e9)
        for field, value in (
            ("plan_weight", 1.1e9),
            ("five_hour_utilization", 10_001),
            ("weekly_utilization", 10_001),
            ("five_hour_reset", 5_000_000_000),
            ("weekly_reset", 5_000_000_000),
        ):
            self.refused(state(**{field: value}))

    def test_other_fields(self) -> None:
        """A newer instance may send more fields."""
        more = state(fable=[1, {"x": None}], five_hour={"used": -1}, **{"": "", "größe": 1})
        self.assertEqual(read_status(more), read_status(state()))

    def test_f64_other_fields_without_end(self) -> None:
        """Nothing is built of what is not looked at, however much it is."""
        more = state(more=[{"a": number} for number in range(20_000)], **{f"x{n}": n for n in range(10_000)})
        tracemalloc.start()
        try:
            status = read_status(more)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertEqual(status, read_status(state()))
        self.assertLess(peak, 3 * len(more))

    def test_no_object(self) -> None:
        for document in (b"[]", b"5", b"null", b'"state"', b"true", b"[" + state() + b"]"):
            self.assertEqual(self.refused(document), "the remote's status is no JSON object")

    def test_no_json(self) -> None:
        for document in (
            b"",
            b" ",
            b"<html>secret</html>",
            state()[:-1],
            state() + state(),
            state() + b"\0",
            b"\xff\xfe" + state(),
            state().decode().encode("utf-16"),
            state().replace(b"plan", b"\xff"),
            b"[" * 100_000,
            b'{"a":' * 100_000,
        ):
            self.assertEqual(self.refused(document), "the remote's status is not JSON")

    def test_white_space_around(self) -> None:
        """A line that ends with CRLF."""
        self.assertEqual(read_status(b" \t" + state() + b"\r\n"), read_status(state()))

    def test_the_last_of_two(self) -> None:
        """The last of two equal names wins, as JSON readers do it."""
        document = state().replace(b"{", b'{"plan_weight": null, ', 1)
        self.assertEqual(read_status(document).plan_weight, 15.0)

    def test_nothing_is_quoted(self) -> None:
        for document in (b"hush", b'"hush"', state(plan_weight="hush"), b'{"hush": 1}'):
            self.assertNotIn("hush", self.refused(document))

    @examples(300)
    @given(st.binary(max_size=300))
    @example(b"{" + b'"a":{' * 2000)
    def test_garbage(self, document: bytes) -> None:
        self.refused(document)

    @examples(200)
    @given(
        st.dictionaries(
            st.sampled_from([*STATE, "availability", "other"]),
            st.integers() | st.floats() | st.sampled_from(ODD_VALUES),
        ),
        st.booleans(),
    )
    @example({name: None for name in STATE if name != "plan_weight"} | {"plan_weight": 0}, False)
    def test_whatever_is_said(self, fields: dict[str, Any], is_whole: bool) -> None:
        """Either the status is refused, or every figure is plausible."""
        document = json.dumps(STATE | fields if is_whole else fields).encode()
        try:
            status = read_status(document)
        except AnswerMalformed:
            return
        self.assertIsInstance(status, RemoteStatus)
        self.assertTrue(0 <= status.plan_weight <= 1e9)
        self.assertTrue(0 <= status.reset_at <= 4_102_444_800)
        windows = [status.limits.short, status.limits.weekly]
        if not status.is_known:
            self.assertEqual(windows, [None, None])
            return
        for window in windows:
            assert window is not None and window.utilization is not None
            self.assertTrue(0 <= window.utilization <= 10_000)
            self.assertTrue(0 <= window.resets_at <= 4_102_444_800)
