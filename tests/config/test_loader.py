"""Files, the environment, and the values read from them; no exception but ConfigurationError is raised."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import (
    Config,
    ConfigurationError,
    Problem,
    default_config,
    load,
    load_text,
    readable_by_others,
)
from ccmproxy.config.not_supported import is_supported
from ccmproxy.config.reference import option_names
from ccmproxy.config.shape import ONLY_SERVICES
from tests.config.checking import HOME, complaints, found, loaded
from tests.profiles import examples

MINIMAL = "services: [{type: ccm}]"


class FileTests(SynchronousTestCase):
    """load()."""

    def write(self, content: bytes, mode: int = 0o600) -> str:
        """A file, as its absolute path."""
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def problem(self, path: str) -> Problem:
        """The only problem of a file."""
        with self.assertRaises(ConfigurationError) as caught:
            load(path, environ={}, home=HOME)
        (problem,) = caught.exception.problems
        assert isinstance(problem, Problem)
        self.assertEqual(problem.file, path)
        return problem

    def test_valid(self) -> None:
        path = self.write(MINIMAL.encode())
        config = load(path, environ={}, home=HOME)
        self.assertEqual(config.path, path)
        self.assertEqual(config.secret_files, (path, f"{HOME}/.claude/.credentials.json"))

    def test_sing_box_json(self) -> None:
        document = {
            "services": [
                {
                    "type": "ccm",
                    "tag": "ccm-in",
                    "listen": "127.0.0.1",
                    "listen_port": 9000,
                    "credential_path": "",
                    "usages_path": "",
                    "users": [{"name": "alice", "token": "ak-ccm-hello-world"}],
                    "headers": {"X-A": "b", "X-C": ["d", "e"]},
                    "detour": "",
                    "tls": {},
                }
            ]
        }
        for indent in (None, 2, "\t"):
            path = self.write(b"\xef\xbb\xbf" + json.dumps(document, indent=indent).encode())
            (service,) = load(path, environ={}, home=HOME).services
            self.assertEqual((service.name, service.address), ("ccm-in", "127.0.0.1:9000"))
            self.assertEqual(service.headers, {"X-A": ("b",), "X-C": ("d", "e")})

    def test_unreadable(self) -> None:
        path = os.path.abspath(self.mktemp())
        self.assertEqual(self.problem(path).message, "cannot be read: No such file or directory")
        self.assertEqual(self.problem("a\0b").message, "cannot be read: not a valid path")
        os.mkdir(path)
        self.assertEqual(self.problem(path).message, "cannot be read: Is a directory")

    def test_not_permitted(self) -> None:
        path = self.write(MINIMAL.encode(), 0)
        if os.access(path, os.R_OK):
            return  # root may read everything
        self.assertEqual(self.problem(path).message, "cannot be read: Permission denied")

    def test_not_utf8(self) -> None:
        for content, place in ((b"a: 1\nb: \xff\n", (2, 4)), ("a: 1".encode("utf-16"), (1, 1))):
            problem = self.problem(self.write(content))
            self.assertEqual((problem.message, problem.line, problem.column), ("is not UTF-8 text", *place))

    def test_empty(self) -> None:
        for content in (b"", b"# nothing\n", b"---\n", b"null"):
            self.assertIn("is empty", self.problem(self.write(content)).message)

    def test_not_a_mapping(self) -> None:
        for content in (b"- type: ccm\n", b"hello", b"5", b"true"):
            self.assertIn("must be a mapping", self.problem(self.write(content)).message)

    def test_too_large(self) -> None:
        self.assertIn("too large", self.problem(self.write(b"a: " + b"x" * 2_000_000)).message)

    def test_token_file_beside_the_configuration(self) -> None:
        token = self.write(b"the-token\n")
        text = f"services: [{{type: ccm, users: [{{name: a, token_file: ./{os.path.basename(token)}}}]}}]"
        path = os.path.join(os.path.dirname(token), "ccmproxy.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        config = load(path, environ={}, home=HOME)
        self.assertEqual(config.services[0].users[0].token.get_secret_value(), "the-token")
        self.assertIn(token, config.secret_files)

    def test_readable_by_others(self) -> None:
        closed, group, opened = (self.write(b"x", mode) for mode in (0o600, 0o640, 0o644))
        services = loaded(MINIMAL).services
        config = Config(services, secret_files=(closed, opened, group, "/does/not/exist"))
        self.assertEqual(readable_by_others(config), (opened,))


class CredentialPathTests(SynchronousTestCase):
    """A directory where an account's file should be: no service could ever log in from it."""

    def setUp(self) -> None:
        self.folder: str = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.folder, "mounted", ".credentials.json"))
        os.mkdir(os.path.join(self.folder, "claude"))
        for name in ("file.json", "claude/.credentials.json"):
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                file.write("{}")

    def problems(self, service: str) -> list[str]:
        """The problems of a service with these options."""
        try:
            load_text(f"services: [{{{service}}}]", "c", directory=self.folder, environ={}, home=HOME)
        except ConfigurationError as error:
            return [f"{problem.path}: {problem.message}" for problem in error.problems]
        return []

    def test_directory(self) -> None:
        message = "is a directory: name the credential file in it"
        for kind, path, hint in (
            ("ccm", "claude", ', or use "claude_directory"'),
            ("ccm", f"{self.folder}/claude/", ', or use "claude_directory"'),
            ("ocm", ".", ""),
        ):
            single = f"type: {kind}, credential_path: {path}"
            self.assertEqual(self.problems(single), [f"services[0].credential_path: {message}"])
            several = f"type: {kind}, credentials: [{{tag: a}}, {{tag: b, credential_path: {path}}}]"
            expected = f"services[0].credentials[1].credential_path: {message}{hint}"
            self.assertEqual(self.problems(several), [expected])

    def test_claude_directory(self) -> None:
        for path, message in (
            ("file.json", 'is a file, not a directory: use "credential_path"'),
            ("mounted", "holds a directory in place of the file .credentials.json"),
        ):
            (problem,) = self.problems(f"type: ccm, credentials: [{{tag: a, claude_directory: {path}}}]")
            self.assertEqual(problem, f"services[0].credentials[0].claude_directory: {message}")

    def test_nothing_wrong(self) -> None:
        """A file that is missing may come later."""
        for path in ("file.json", "claude/.credentials.json", "missing.json"):
            self.assertEqual(self.problems(f"type: ccm, credential_path: {path}"), [])
            self.assertEqual(
                self.problems(f"type: ccm, credentials: [{{tag: a, credential_path: {path}}}]"), []
            )
        for path in ("claude", "claude/", "missing"):
            self.assertEqual(
                self.problems(f"type: ccm, credentials: [{{tag: a, claude_directory: {path}}}]"), []
            )

    def test_with_other_problems(self) -> None:
        """Everything is reported at once, and what has the wrong type is not looked at."""
        found = self.problems(
            "type: ccm, credential_path: ., listen_port: x, credentials: [5, {tag: [], credential_path: 1}]"
        )
        self.assertIn("services[0].credential_path: is a directory: name the credential file in it", found)
        self.assertIn("services[0].listen_port: must be a whole number, is text", found)


class MistakeTests(SynchronousTestCase):
    """Files as people write them: each mistake is named, and what is none is taken as it is meant."""

    SECRET = "s3cret-token"

    def service(self, **options: Any) -> str:
        """A file of one service with these options, as JSON."""
        return json.dumps({"services": [{"type": "ccm", **options}]})

    def test_mistakes(self) -> None:
        token = "services[0].users[0].token: must"
        foreign = f"unknown option; {ONLY_SERVICES}"
        users = "services:\n- type: ccm\n  users:\n  - {name: bob, token: %s}\n"
        wrapper = {
            "log": {"level": "info", "timestamp": True},
            "services": [{"type": "ccm", "tag": "x", "users": [{"name": "a", "token": self.SECRET}]}],
            "inbounds": [],
            "route": {},
        }
        for text, expected in (
            (users % "12345678", [f"{token} be text, is a number; put it in quotes"]),
            (users % "true", [f"{token} be text, is true or false; put it in quotes"]),
            (users % f'"{self.SECRET}\\n"', [f"{token} not begin or end with a space or a line break"]),
            (users % f'" {self.SECRET}"', [f"{token} not begin or end with a space or a line break"]),
            (
                users % f"s3cret {self.SECRET}",
                [f"{token} be printable ASCII characters without spaces, and not empty"],
            ),
            (
                "services:\n- type: ccm\n\tlisten: 127.0.0.1\n",
                [
                    "is not valid YAML: found character '\\t' that cannot start any token"
                    " (YAML is indented with spaces, not with tabs)"
                ],
            ),
            (
                self.service(listen="[::1]"),
                ['services[0].listen: must be an IP address without brackets, for example "::1"'],
            ),
            (
                self.service(listen_port="24000"),
                ["services[0].listen_port: must be a whole number, is text; take the quotes away"],
            ),
            (
                self.service(listen_port="http"),
                ["services[0].listen_port: must be a whole number, is text"],
            ),
            (
                self.service(allow_anonymous="true"),
                ["services[0].allow_anonymous: must be true or false, is text; take the quotes away"],
            ),
            (
                self.service(upstream={"api_url": "127.0.0.1:24001"}),
                ["services[0].upstream.api_url: must begin with https:// (or http://)"],
            ),
            (
                self.service(upstream={"api_url": "http://127.0.0.1:24001/?x=1"}),
                ["services[0].upstream.api_url: must not have a query or a fragment"],
            ),
            ("- type: ccm\n", ['must be a mapping of options, with "services" among them']),
            ("", ['is empty: it needs at least "services"']),
            (json.dumps(wrapper), [f"log.timestamp: {foreign}", f"inbounds: {foreign}", f"route: {foreign}"]),
            (
                "services:\n- type: ccm\n  listen_port: 1\n  listen_port: 2\n",
                ["services[0].listen_port: is given twice (first in line 3)"],
            ),
        ):
            found_here = complaints(text)
            self.assertEqual(found_here, expected)
            self.assertNotIn("s3cret", "".join(found_here))

    def test_comments_of_another_language(self) -> None:
        comment = "(a comment begins with #)"
        for text in (
            '{"services": [ // x\n {"type": "ccm"}]}',
            '{\n  // x\n  "services": [{"type": "ccm"}]}',
            '{"services": [{"type": "ccm"}, /* x */ {"type": "ocm"}]}',
        ):
            (complaint,) = complaints(text)
            self.assertTrue(complaint.endswith(comment), complaint)
        for text in (
            '{"services": [{"type": "ccm", "upstream": {"api_url": "https://h/a,//b"}]}',
            "a: [http://h/\n",
        ):
            self.assertNotIn(comment, complaints(text)[0])

    def test_what_is_no_mistake(self) -> None:
        """``on`` is a word (YAML 1.2), and neither Windows' line ends nor a byte order mark mean anything."""
        users = "services:\n- type: ccm\n  users:\n  - name: on\n    token: abcdefgh1\n"
        for text in (users, users.replace("\n", "\r\n"), "\N{BYTE ORDER MARK}" + users):
            (user,) = loaded(text).services[0].users
            self.assertEqual((user.name, user.token.get_secret_value()), ("on", "abcdefgh1"))

    def test_token_file_of_windows(self) -> None:
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        with open(os.path.join(folder, "token"), "wb") as file:
            file.write(self.SECRET.encode() + b"\r\n")
        text = self.service(users=[{"name": "b", "token_file": "token"}])
        (user,) = load_text(text, "c", directory=folder, environ={}, home=HOME).services[0].users
        self.assertEqual(user.token.get_secret_value(), self.SECRET)


class ProblemTests(SynchronousTestCase):
    """All at once, each with its place."""

    TEXT = """\
services:
  - type: ccm
    listen: example.org
    listne_port: 1
    credentials:
      - tag: a
        reserve_5h: 120
      - tag: a
        type: extern
    users:
      - name: u
        token: t
        credential: b
      - name: u
log:
  level: loud
  level: info
outbounds: []
shutdown_grace: -1
"""

    def test_all_at_once(self) -> None:
        self.assertEqual(
            [(p.line, p.column, p.path) for p in found(self.TEXT)],
            [
                (3, 5, "services[0].listen"),
                (4, 5, "services[0].listne_port"),
                (7, 9, "services[0].credentials[0].reserve_5h"),
                (8, 9, "services[0].credentials[1].tag"),
                (9, 9, "services[0].credentials[1].type"),
                (13, 9, "services[0].users[0].credential"),
                (14, 9, "services[0].users[1].credential"),
                (14, 9, "services[0].users[1].name"),
                (14, 9, "services[0].users[1].token"),
                (16, 3, "log.level"),
                (17, 3, "log.level"),
                (19, 1, "shutdown_grace"),
            ],
        )

    def test_as_text(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            load_text(self.TEXT, "/etc/x.yaml", environ={}, home=HOME)
        lines = str(caught.exception).splitlines()
        self.assertEqual(len(lines), 12)
        self.assertEqual(
            lines[2], "/etc/x.yaml:7: services[0].credentials[0].reserve_5h: must be at most 99, is 120"
        )

    def test_syntax(self) -> None:
        (problem,) = found("services:\n  - type: ccm\n bad")
        self.assertEqual((problem.line, problem.path), (3, ""))
        self.assertIn("is not valid YAML", problem.message)

    def test_duplicate_option(self) -> None:
        self.assertEqual(
            complaints("services:\n- type: ccm\n  tag: a\n  tag: b\n"),
            ["services[0].tag: is given twice (first in line 3)"],
        )


class SurroundingsTests(SynchronousTestCase):
    """The environment, the home directory, sudo."""

    def path(self, environ: dict[str, str], **homes: str) -> str | None:
        """Where the default credential is looked for."""
        config = default_config(environ, HOME, home_of=homes.get, is_file=lambda path: False)
        return config.services[0].credentials[0].credential_path

    def test_default_path(self) -> None:
        self.assertEqual(self.path({}), f"{HOME}/.claude/.credentials.json")
        self.assertEqual(self.path({"CLAUDE_CONFIG_DIR": "/c"}), "/c/.credentials.json")

    def test_a_relative_directory_of_the_client_is_below_the_working_directory(self) -> None:
        """Relative to the working directory, as for the client itself, not to the configuration."""
        environ = {"CLAUDE_CONFIG_DIR": "logins"}
        config = load_text(MINIMAL, "test.yaml", directory="/etc/ccm", environ=environ, home=HOME)
        path = config.services[0].credentials[0].credential_path
        self.assertEqual(path, os.path.join(os.getcwd(), "logins", ".credentials.json"))

    def test_sudo(self) -> None:
        environ = {"SUDO_USER": "bob"}
        self.assertEqual(self.path(environ, bob="/home/bob"), "/home/bob/.claude/.credentials.json")
        self.assertEqual(self.path(environ), f"{HOME}/.claude/.credentials.json")

    def test_sudo_of_the_system(self) -> None:
        for name in ("no-such-user-here", "../etc", ""):
            config = default_config({"SUDO_USER": name}, HOME)
            self.assertEqual(
                config.services[0].credentials[0].credential_path, f"{HOME}/.claude/.credentials.json"
            )

    def test_default_config(self) -> None:
        asked: list[str] = []

        def is_file(path: str) -> bool:
            asked.append(path)
            return True

        config = default_config({"CODEX_HOME": "/codex"}, HOME, is_file=is_file)
        ports = {service.type: service.address for service in config.services}
        if is_supported("services[].type", "ocm"):
            self.assertEqual(ports, {"ccm": "127.0.0.1:8080", "ocm": "127.0.0.1:8081"})
            self.assertEqual(asked, ["/codex/auth.json"])
        else:
            self.assertEqual(ports, {"ccm": "127.0.0.1:8080"})
        self.assertEqual(config.path, None)

    def test_the_process_is_the_default(self) -> None:
        self.patch(os, "environ", {"HOME": "/home/carol", "THE_TOKEN": "t"})
        config = load_text("services: [{type: ccm, users: [{name: a, token_env: THE_TOKEN}]}]", "x")
        self.assertEqual(
            config.services[0].credentials[0].credential_path, "/home/carol/.claude/.credentials.json"
        )


NAMES = st.sampled_from(sorted(option_names() | {"default", "external", "balancer", "<<", "x", "sk-1", ""}))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["ccm", "ocm", "external", "balancer", "socks", "a", "b", "0.0.0.0", "https://h", "tcp:80", "5s", "~"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
SERVICES = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["ccm", "ocm"])},
        optional={
            "credentials": st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=3) | VALUES,
            "users": st.lists(st.dictionaries(NAMES, SCALARS, max_size=4), max_size=3) | VALUES,
            "headers": st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
            "endpoint": VALUES,
            "listen": VALUES,
            "upstream": VALUES,
            "tls": VALUES,
        },
    ),
    max_size=3,
)


class GarbageTests(SynchronousTestCase):
    """Any content of a file yields a configuration or ConfigurationError."""

    def survive(self, text: str) -> None:
        """``text`` raises no other exception, and every problem has a message."""
        try:
            loaded(text)
        except ConfigurationError as error:
            self.assertTrue(error.problems)
            for problem in error.problems:
                self.assertTrue(problem.message and "\n" not in str(problem), str(problem))

    @examples(200)
    @given(st.dictionaries(NAMES, VALUES, max_size=4))
    def test_documents(self, document: dict[str, Any]) -> None:
        self.survive(json.dumps(document))

    @examples(200)
    @given(SERVICES, VALUES, VALUES)
    def test_services(self, services: list[Any], outbounds: Any, prices: Any) -> None:
        self.survive(json.dumps({"services": services, "outbounds": outbounds, "prices": prices}))

    @examples(200)
    @given(st.text(max_size=60))
    def test_text(self, text: str) -> None:
        self.survive(text)
        self.survive("services:\n  - type: ccm\n    " + text)
