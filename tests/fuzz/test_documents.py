"""JSON and YAML from elsewhere: bodies of requests and refusals, states of remotes, credential files, configuration."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import ConfigurationError, load_text
from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.dialects.oauth import AnswerMalformed, ApiKey, CredentialFileError
from ccmproxy.dialects.remote import read_status
from ccmproxy.http.message import Body, RequestHead, ResponseHead
from tests.effort import Effort
from tests.fuzz.mutation import mutated
from tests.profiles import examples
from tests.source import ROOT

_TOKENS = (b'"a":', b"null", b"true", b'"model":1,', b'"model":"m",', b"[1,", b"{},", b"[[", b"1e400", b"-0")


def _json(*documents: object) -> st.SearchStrategy[bytes]:
    return st.sampled_from([json.dumps(each).encode() for each in documents])


REQUESTS = _json(
    {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True},
    {"model": "m", "messages": [], "metadata": {"user_id": json.dumps({"session_id": "s"})}},
    {"model": "m", "input": [{"type": "message"}], "prompt_cache_key": "k", "stream": False},
    {"model": None, "messages": 5, "metadata": {"user_id": "user_x_account_y_session_z"}},
)
REFUSALS = _json(
    {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "This organization has been disabled"},
    },
    {"error": {"code": "usage_limit_reached", "resets_in_seconds": 5, "message": "x"}},
    {"detail": "nothing"},
    "text",
)
STATES = _json(
    {
        "five_hour_utilization": 1.5,
        "five_hour_reset": 1,
        "weekly_utilization": 2,
        "weekly_reset": 0,
        "plan_weight": 10,
        "availability": {"state": "usable", "reset_at": 5},
    }
)
CREDENTIALS = _json(
    {
        "claudeAiOauth": {
            "accessToken": "a",
            "refreshToken": "r",
            "expiresAt": 1_900_000_000_000,
            "scopes": ["user:inference"],
            "subscriptionType": "max",
        },
        "other": [1],
    },
    {
        "OPENAI_API_KEY": None,
        "tokens": {"id_token": "e30.e30.x", "access_token": "a", "refresh_token": "r", "account_id": "i"},
        "last_refresh": "2026-01-01T00:00:00Z",
    },
    {"OPENAI_API_KEY": "sk-x"},
)


def _lines(path: Path) -> list[str]:
    """The example configuration, with what is commented out in it."""
    return [line.replace("# ", "", 1) for line in path.read_text().splitlines() if ":" in line]


class BodyTests(SynchronousTestCase):
    """Bodies of requests and of refusals."""

    @given(mutated(REQUESTS, _TOKENS), st.sampled_from(sorted(DIALECTS)))
    @examples(200)
    def test_requests(self, data: bytes, name: str) -> None:
        inspect = DIALECTS[name].traffic.inspect
        head = RequestHead(b"POST", b"/v1/responses", [(b"Content-Type", b"application/json")])
        with Effort(memory=True) as effort:
            facts = inspect(head, Body([data]), True)
        self.assertLess(effort.lines, 1000)
        self.assertLess(effort.peak, 100_000 + 40 * len(data))
        for fact in (facts.model, facts.session):
            self.assertTrue(fact is None or (fact.isascii() and len(fact) <= 200))
        self.assertEqual(inspect(head, Body([data[:9], data[9:]])), facts)

    @given(
        mutated(REFUSALS, _TOKENS),
        st.sampled_from((400, 401, 403, 429, 503)),
        st.sampled_from(sorted(DIALECTS)),
    )
    @examples(200)
    def test_refusals(self, data: bytes, status: int, name: str) -> None:
        with Effort() as effort:
            DIALECTS[name].traffic.classify(ResponseHead(status, b""), data, 1000.0, "echo", "m")
        self.assertLess(effort.lines, 3000)


class StateTests(SynchronousTestCase):
    """What another instance says of itself."""

    @given(mutated(STATES, _TOKENS))
    @examples(200)
    def test_states(self, data: bytes) -> None:
        try:
            status = read_status(data)
        except AnswerMalformed:
            return
        self.assertGreaterEqual(status.plan_weight, 0)


class CredentialFileTests(SynchronousTestCase):
    """Files that other programs write."""

    @given(mutated(CREDENTIALS, _TOKENS), st.sampled_from(sorted(DIALECTS)))
    @examples(200)
    def test_files(self, data: bytes, name: str) -> None:
        account = DIALECTS[name].account
        with Effort() as effort:
            try:
                login = account.parse(data)
            except CredentialFileError as error:
                self.assertNotIn('claudeAiOauth": {', str(error))
                return
        self.assertLess(effort.lines, 2000)
        if not isinstance(login, ApiKey):
            try:
                again = account.parse(account.merge(data, login))
            except CredentialFileError:
                return
            assert not isinstance(again, ApiKey)
            self.assertEqual(again.access_token, login.access_token)


class ConfigurationTests(SynchronousTestCase):
    """The operator's own file: whatever is wrong in it is said, and nothing else is raised."""

    LINES = tuple(_lines(ROOT / "etc" / "ccmproxy.yaml"))

    @given(st.data())
    @examples(60)
    def test_files(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.LINES) - 1))
        lines = self.LINES[start : start + data.draw(st.integers(1, 30))]
        valid = "\n".join(["services:", "  - type: ccm", *lines]).encode()
        text = data.draw(
            mutated(
                st.just(valid), (b"&a ", b"*a", b"<<: *a\n", b"- ", b"? ", b"!!python/x ", b"---\n", b"%Y\n")
            )
        )
        try:
            load_text(
                text.decode("utf-8", "replace"), "x.yaml", directory="/nowhere", environ={}, home="/nowhere"
            )
        except ConfigurationError as error:
            self.assertTrue(str(error))
