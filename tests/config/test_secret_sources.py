"""Tokens and keys from the file, from files of their own and from the environment; and that none is ever repeated."""

from __future__ import annotations

import os
from typing import Any

from pydantic import SecretStr
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import ConfigurationError
from ccmproxy.config.document import SECRET_OPTIONS
from ccmproxy.config.problems import Report
from ccmproxy.config.reference import SECTIONS
from ccmproxy.config.secret_sources import read_secrets
from tests.config.checking import loaded

SECRET = "s3cr3t-7e1f9d0b42aa"
#: Looks like an ordinary name, so that it is hidden only because it is a known secret.
WORD = "swordfish"


class SourceTests(SynchronousTestCase):
    """One service, one secret."""

    def read(
        self, service: dict[str, Any], environ: dict[str, str], files: dict[str, bytes | OSError]
    ) -> list[str]:
        """The secrets found, then the complaints."""

        def read_file(path: str) -> bytes:
            content = files[path]
            if isinstance(content, OSError):
                raise content
            return content

        report = Report("f", {})
        secrets = read_secrets({"services": [service]}, environ, read_file, report)
        found = [value.get_secret_value() for value in secrets.values.values()]
        self.assertTrue(set(found) <= report.secrets)
        return found + [f"{problem.path}: {problem.message}" for problem in report.problems()]

    def user(self, **options: Any) -> list[str]:
        """What becomes of one user's token."""
        files: dict[str, bytes | OSError] = {
            "good": b" abc\n",
            "empty": b"\n",
            "two": b"a b",
            "binary": b"\xff\xfe",
            "gone": FileNotFoundError(2, "No such file or directory"),
        }
        environ = {"GOOD": "abc", "EMPTY": "", "TWO": "a\nb"}
        return self.read({"users": [{"name": "u", **options}]}, environ, files)

    def test_found(self) -> None:
        for options in ({"token": "abc"}, {"token_file": "good"}, {"token_env": "GOOD"}):
            self.assertEqual(self.user(**options), ["abc"])

    def test_not_found(self) -> None:
        place = "services[0].users[0]."
        one = "does not hold"
        for options, expected in (
            ({}, 'token: is required (or "token_file", or "token_env")'),
            ({"token": None}, 'token: is required (or "token_file", or "token_env")'),
            ({"token_file": "gone"}, "token_file: the file cannot be read: No such file or directory"),
            ({"token_file": "binary"}, "token_file: the file cannot be read: it does not hold a token"),
            ({"token_file": "empty"}, f"token_file: the file {one} exactly one token"),
            ({"token_file": "two"}, f"token_file: the file {one} exactly one token"),
            ({"token_env": "GONE"}, "token_env: this environment variable is not set"),
            ({"token_env": "EMPTY"}, f"token_env: this environment variable {one} a token"),
            ({"token_env": "TWO"}, f"token_env: this environment variable {one} a token"),
            ({"token": ""}, "token: must be printable ASCII characters without spaces, and not empty"),
            ({"token": "a b"}, "token: must be printable ASCII characters without spaces, and not empty"),
            ({"token": "ä"}, "token: must be printable ASCII characters without spaces, and not empty"),
        ):
            (complaint,) = self.user(**options)
            self.assertTrue(complaint.startswith(place + expected), (options, complaint))

    def test_only_one_source(self) -> None:
        self.assertEqual(
            self.user(token="abc", token_env="GOOD"),
            ["abc", 'services[0].users[0].token_env: cannot be given together with "token"'],
        )

    def test_wrong_type_is_the_schemas_business(self) -> None:
        self.assertEqual(self.user(token=5), [])
        self.assertEqual(self.user(token_file=["good"]), [])

    def test_same_token_from_different_sources(self) -> None:
        users = [{"name": "a", "token": "abc"}, {"name": "b", "token_env": "E"}]
        self.assertEqual(
            self.read({"users": users}, {"E": "abc"}, {}),
            ["abc", "abc", "services[0].users[1].token_env: is the same token as that of users[0]"],
        )

    def test_credentials(self) -> None:
        credentials = [
            {"tag": "a", "api_key_env": "KEY"},
            {"tag": "b", "type": "external", "token_file": "f"},
            {"tag": "c"},
            {"tag": "d", "type": "external"},
            {"tag": "e", "type": "balancer", "token": "no"},
        ]
        self.assertEqual(
            self.read({"credentials": credentials}, {"KEY": "k"}, {"f": b"t"}),
            ["k", "t", 'services[0].credentials[3].token: is required (or "token_file", or "token_env")'],
        )

    def test_same_token_of_two_remotes(self) -> None:
        """Duplicates are refused from any source, except for a remote that we connect to."""
        credentials = [
            {"tag": "a", "type": "external", "token": "abc"},
            {"tag": "b", "type": "external", "token_env": "E"},
            {"tag": "c", "type": "external", "token": "abc", "url": "https://h", "reverse": True},
        ]
        self.assertEqual(
            self.read({"credentials": credentials}, {"E": "abc"}, {}),
            ["abc"] * 3
            + ["services[0].credentials[1].token_env: is the same token as that of credentials[0]"],
        )


class NothingIsRepeatedTests(SynchronousTestCase):
    """Secrets in every place, valid or not, with many mistakes around them."""

    def test_every_secret_option_is_known(self) -> None:
        hidden = {
            name
            for _, _, model in SECTIONS
            for name, field in model.model_fields.items()
            if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))
        }
        self.assertEqual(hidden | {"headers"}, set(SECRET_OPTIONS))

    def check(self, text: str, environ: dict[str, str] | None = None) -> None:
        """``text`` is refused, and no message holds a secret."""
        with self.assertRaises(ConfigurationError) as caught:
            loaded(text, environ)
        error = caught.exception
        shown = (
            str(error) + repr(error) + repr(error.problems) + repr(error.__cause__) + repr(error.__context__)
        )
        for secret in (SECRET, WORD):
            self.assertNotIn(secret, shown, text)

    def test_places(self) -> None:
        for secret in (SECRET, WORD):
            for options in (
                f"users: [{{name: a, token: {secret}}}, {{name: b, token: {secret}}}]",
                f"users: [{{name: a, token: {secret}, credential: {secret}}}]",
                f"users: [{{name: a, token: [{secret}]}}]",
                f"users: [{{name: a, token: {{{secret}: {secret}}}, {secret}: 1}}]",
                f"users: [{{name: a, token: {secret}, token: {secret}, {secret}: 1}}]",
                f"users: [{{name: {secret}, token: {secret}}}, {{name: {secret}, token: x}}]",
                f"users: [{{name: a, token: '{secret} {secret}'}}]",
                f"credentials: [{{tag: {secret}, api_key: {secret}}}, {{tag: {secret}}}]",
                f"credentials: [{{tag: a, type: {secret}, api_key: {secret}}}]",
                f"credentials: [{{tag: p, type: balancer, token: {secret}, credentials: [{secret}]}}]",
                f"credentials: [{{tag: p, type: balancer, token: {secret}, strategy: {secret}}}]",
                f"credentials: [{{tag: e, type: external, token: {secret}, url: 'https://{secret}@h'}}]",
                f"credentials: [{{tag: e, type: external, token: {secret}, url: '{secret}'}}]",
                f"headers: {{X-A: '{secret}\\n', Connection: {secret}}}, detour: {secret}",
                f'headers: {{X-A: "{secret}\\n", X-B: [5, {secret}]}}, type: {secret}',
                f"upstream: {{api_url: 'http://u:{secret}@h'}}",
                f"upstream: {{api_url: 'http://h/?key={secret}'}}",
            ):
                self.check(f"services: [{{type: ccm, {options}, bogus: 1}}]")

    def test_where_only_its_look_protects_it(self) -> None:
        for options in (
            f"users: [{{name: a, token:{SECRET}}}]",
            f"users: [{{name: a, token_env: {SECRET}}}]",
            f"users: [{{name: a, token_file: {SECRET}}}]",
            f"users: {{alice: {SECRET}}}",
            f"users: [{{alice: {SECRET}}}]",
            f"users: [{{{SECRET}: alice}}]",
            f"users: [{SECRET}]",
            f"users: [{{name: a, tokn: {SECRET}}}]",
            f"users: [{{name: a, token: t, credential: {SECRET}}}]",
            f"listen: {SECRET}",
            f"endpoint: {SECRET}",
            f"head_timeout: {SECRET}",
            f"max_request_body: {SECRET}",
            f"listen_port: {SECRET}",
            f"trusted_proxies: [{SECRET}]",
            f"headers: {{Authorization:{SECRET}}}",
            f"{SECRET}: 1",
        ):
            self.check(f"services: [{{type: ccm, {options}, bogus: 1}}]")

    def test_from_elsewhere(self) -> None:
        self.check(
            f"services: [{{type: ccm, users: [{{name: a, token_env: T, credential: {WORD}}}], {WORD}: 1}}]",
            {"T": WORD},
        )
        path = self.mktemp()
        with open(path, "w", encoding="ascii") as file:
            file.write(WORD + "\n")
        self.check(
            f"services: [{{type: ccm, users: [{{name: a, token_file: {os.path.abspath(path)}, credential: {WORD}}}]}}]"
        )

    def test_values(self) -> None:
        config = loaded(
            f"services: [{{type: ccm, users: [{{name: a, token: {SECRET}}}], headers: {{A: {SECRET}}},"
            f" credentials: [{{tag: k, api_key: {SECRET}}}]}}]"
        )
        self.assertEqual(config.services[0].users[0].token.get_secret_value(), SECRET)
        self.assertNotIn(SECRET, repr(config) + str(config))
