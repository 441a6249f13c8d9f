"""The architecture, as a table that the source is held to: who may import whom, and what the pure ring must not do.

Imports point inwards only: pure modules know values, parts know Twisted and the pure modules, surfaces know the
parts, the root knows everything. A module that stands nowhere in the table is an error: decide where it belongs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from twisted.trial.unittest import SynchronousTestCase

from tests.source import Module, imports, is_ours, parse, read_package, unit


def names(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


# The table ------------------------------------------------------------------------------------------------

#: Pure: values and decisions that both dialects share.
CORE = names(
    """
    _version aggregate authentication availability backoff balancing dialect durations errors facts frames headers
    interfaces limits message oauth refusals remote retry retry_after sessions sse transitions usage
    """
)
#: All of the pure ring.
PURE = CORE | {"config", "dialects", "websocket", "yamux"}
#: What the parts may know of it: a dialect reaches them as an object that provides ``ccmproxy.interfaces``.
VALUES = CORE | {"config"}

#: Unit → the other units that it may import. The empty name is ``ccmproxy/__init__.py``.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    # pure
    **dict.fromkeys(CORE, CORE),
    "dialects": CORE,
    "config": CORE | {"dialects"},
    "websocket": frozenset({"message"}),
    "yamux": frozenset(),
    # parts
    "tcp": frozenset(),
    "http": VALUES | {"tcp"},
    "net": VALUES | {"tcp"},
    "credentials": VALUES | {"http", "net"},
    "proxy": VALUES | {"http", "tcp", "websocket"},
    "reverse": VALUES | {"http", "net", "tcp", "yamux"},
    "ledger": VALUES,
    "lag": frozenset(),
    # surfaces
    "testing": PURE | {"http", "net", "credentials", "proxy"},
    "simulator": PURE | {"http", "net", "testing"},
    "logs": frozenset(),
    "own_endpoints": VALUES | {"http", "proxy"},
    "status": VALUES | {"http", "proxy", "own_endpoints"},
    "routes": VALUES | {"http", "proxy", "reverse", "status", "own_endpoints"},
    "cli": PURE | {"http", "net", "credentials", "demo"},
    # root
    "surroundings": VALUES | {"net"},
    "assembly": VALUES | {"http", "credentials", "reverse", "surroundings"},
    "multiplexer": PURE
    | {"http", "credentials", "proxy", "reverse", "assembly", "routes", "status", "surroundings"},
    "service": VALUES | {"credentials", "ledger", "lag", "multiplexer", "surroundings"},
    "demo_outcome": frozenset(),
    "demo_codex": frozenset({"demo_outcome"}),
    "demo": PURE | {"logs", "service", "surroundings", "simulator", "demo_codex", "demo_outcome"},
    "tuning": frozenset(),
    "tap": PURE | {"net", "service", "surroundings", "logs", "tuning"},
    "": PURE | {"service", "surroundings", "tap"},
}

#: Libraries that do no I/O and read no clock.
PURE_LIBRARIES = names(
    """
    __future__ abc base64 binascii bisect calendar collections contextlib copy dataclasses datetime decimal difflib
    email.utils enum functools hashlib heapq hmac http.HTTPStatus ipaddress itertools json math msgspec operator re
    statistics string struct textwrap types typing typing_extensions urllib.parse uuid zlib
    """
)
#: Module or package of the pure ring → what it may use besides.
PURE_EXTRAS: Mapping[str, frozenset[str]] = {
    "ccmproxy.interfaces": frozenset({"zope.interface"}),
    "ccmproxy.dialects": frozenset({"zope.interface", "zstandard"}),
    "ccmproxy.config": frozenset({"pydantic", "pydantic_core", "yaml"}),
    # the one pure module that touches the system: it reads the configuration, and the secrets that it names
    "ccmproxy.config.loader": frozenset({"os", "pathlib"}),
}
#: Built-in functions that do I/O, and who may call them all the same.
IMPURE_BUILTINS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval"})
OPENERS = frozenset({"ccmproxy.config.loader"})
#: Names of methods that read the clock, called on ``date`` or ``datetime``.
CLOCK_READERS = frozenset({"now", "utcnow", "today"})

#: Modules that may look up the process's reactor, inside a function: the outermost ones.
REACTOR_USERS = frozenset({"ccmproxy.tap"})
REACTOR = "twisted.internet.reactor"

#: A dialect's name means something to these alone; everywhere else it is an object that answers questions.
DIALECT_NAMES = frozenset({"ccm", "ocm", "claude", "codex"})
KNOW_DIALECTS = frozenset({"config", "dialects"})


# The rules ------------------------------------------------------------------------------------------------


def misplaced(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules that the table does not know."""
    for name, module in modules.items():
        if module.unit not in MAY_IMPORT:
            yield (
                f"{name} is in no ring: decide whether it is pure, a part, a surface or the root, and enter"
                f" {module.unit!r} in MAY_IMPORT of {__name__}"
            )


def outward_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Imports between our own modules that the table does not allow."""
    for name, module in modules.items():
        allowed = MAY_IMPORT.get(module.unit, frozenset()) | {module.unit}
        for found in imports(module, modules):
            if not is_ours(found.target) or unit(found.target) in allowed:
                continue
            if found.type_checking and name == "ccmproxy.interfaces":
                continue  # the seams name the types on both of their sides
            yield f"{name}:{found.line} imports {found.target}: {module.unit or 'ccmproxy'} must not know it"


def impure_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Libraries that the pure ring uses and must not."""
    for name, module in modules.items():
        if module.unit not in PURE:
            continue
        allowed = set(PURE_LIBRARIES)
        for owner, extras in PURE_EXTRAS.items():
            if name == owner or name.startswith(f"{owner}."):
                allowed |= extras
        for found in imports(module, modules):
            if is_ours(found.target) or any(_within(found.target, library) for library in allowed):
                continue
            if found.type_checking and name == "ccmproxy.interfaces":
                continue
            yield f"{name}:{found.line} imports {found.target}: the pure ring does no I/O and reads no clock"


def impure_calls(modules: Mapping[str, Module]) -> Iterator[str]:
    """Calls in the pure ring that do I/O or read the clock although the import is harmless."""
    for name, module in modules.items():
        if module.unit not in PURE:
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in IMPURE_BUILTINS and name not in OPENERS:
                yield f"{name}:{node.lineno} calls {called.id}(): the pure ring does no I/O"
            if (
                isinstance(called, ast.Attribute)
                and called.attr in CLOCK_READERS
                and ast.unparse(called.value).rpartition(".")[2] in ("date", "datetime")
            ):
                yield f"{name}:{node.lineno} reads the clock: take `now` as an argument"


def reactor_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Imports of the process's reactor: never at module level, and in a function only in the outermost modules."""
    for name, module in modules.items():
        for found in imports(module, modules):
            if found.target != REACTOR:
                continue
            if not found.deferred:
                yield f"{name}:{found.line} imports the reactor when it is imported itself"
            elif name not in REACTOR_USERS:
                yield f"{name}:{found.line} looks up the reactor: take it as an argument"


def dialect_branches(modules: Mapping[str, Module]) -> Iterator[str]:
    """Decisions by a dialect's name, outside of the dialects and of the configuration that chooses one."""
    for name, module in modules.items():
        if module.unit in KNOW_DIALECTS:
            continue
        for node in ast.walk(module.tree):
            constants: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                constants = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                constants = [node.value]
            for constant in _flatten(constants):
                if constant in DIALECT_NAMES:
                    yield f"{name}:{constants[0].lineno} decides by the name {constant!r}: ask the dialect"


def unneeded(modules: Mapping[str, Module]) -> Iterator[str]:
    """Permissions of single modules that nothing uses any more."""
    for name in sorted(REACTOR_USERS & modules.keys()):
        if not any(found.target == REACTOR for found in imports(modules[name], modules)):
            yield f"{name} does not look up the reactor: take it out of REACTOR_USERS"


def _within(name: str, library: str) -> bool:
    return name == library or name.startswith(f"{library}.")


def _flatten(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield from _flatten(node.elts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield node.value.decode("latin-1")


# The tests ------------------------------------------------------------------------------------------------


class ArchitectureTests(SynchronousTestCase):
    """The package as it is."""

    def setUp(self) -> None:
        self.modules = read_package()

    def none(self, found: Iterator[str]) -> None:
        """Fail with every sentence in ``found``."""
        sentences = list(found)
        if sentences:
            self.fail("\n" + "\n".join(sentences))

    def test_every_module_has_a_ring(self) -> None:
        self.none(misplaced(self.modules))

    def test_imports_point_inwards(self) -> None:
        self.none(outward_imports(self.modules))

    def test_the_pure_ring_uses_pure_libraries(self) -> None:
        self.none(impure_imports(self.modules))

    def test_the_pure_ring_does_no_io(self) -> None:
        self.none(impure_calls(self.modules))

    def test_the_reactor_is_passed_in(self) -> None:
        self.none(reactor_imports(self.modules))

    def test_nothing_decides_by_a_dialects_name(self) -> None:
        self.none(dialect_branches(self.modules))

    def test_no_permission_is_left_over(self) -> None:
        self.none(unneeded(self.modules))


class TableTests(SynchronousTestCase):
    """The table itself."""

    def test_rings_do_not_reach_outwards(self) -> None:
        parts = {"tcp", "http", "net", "credentials", "proxy", "reverse", "ledger", "lag"}
        surfaces = {"routes", "status", "own_endpoints", "logs", "simulator", "testing"}
        rings = [
            PURE,
            parts,
            surfaces,
            {
                "surroundings",
                "assembly",
                "multiplexer",
                "service",
                "tuning",
                "tap",
                "demo_outcome",
                "demo_codex",
                "demo",
                "cli",
                "",
            },
        ]
        self.assertEqual(set().union(*rings), MAY_IMPORT.keys())
        for depth, ring in enumerate(rings):
            outer: set[str] = set().union(*rings[depth + 1 :])
            for name in ring:
                self.assertFalse(MAY_IMPORT[name] & outer, f"{name} may reach outwards")

    def test_parts_stay_apart(self) -> None:
        for name in ("http", "net"):
            self.assertFalse(MAY_IMPORT[name] & {"http", "net", "credentials", "proxy"}, name)
        self.assertNotIn("proxy", MAY_IMPORT["credentials"])
        self.assertNotIn("credentials", MAY_IMPORT["proxy"])

    def test_no_two_units_import_each_other(self) -> None:
        for name, others in MAY_IMPORT.items():
            for other in others - CORE:
                self.assertNotIn(name, MAY_IMPORT[other], f"{name} and {other}")


class RuleTests(SynchronousTestCase):
    """Each rule finds what it is there to find, and lets the innocent pass."""

    def check(self, rule: object, name: str, text: str, expected: list[str]) -> None:
        """``rule`` on a package that consists of ``name``, ``ccmproxy.http.server`` and ``ccmproxy.message``."""
        assert callable(rule)
        modules = {
            other: parse(other, "", is_package=other == "ccmproxy.http")
            for other in (
                "ccmproxy",
                "ccmproxy.http",
                "ccmproxy.http.server",
                "ccmproxy.message",
                "ccmproxy.service",
            )
        }
        modules[name] = parse(name, text)
        self.assertEqual([sentence.split(":")[0] for sentence in rule(modules)], expected)

    def test_unknown_module(self) -> None:
        self.check(misplaced, "ccmproxy.utils", "", ["ccmproxy.utils is in no ring"])
        self.check(misplaced, "ccmproxy.http.http2", "", [])

    def test_outward_import(self) -> None:
        bad = ["ccmproxy.limits"]
        self.check(outward_imports, "ccmproxy.limits", "from ccmproxy.http.server import X", bad)
        self.check(outward_imports, "ccmproxy.limits", "from ccmproxy.http import server", bad)
        self.check(outward_imports, "ccmproxy.limits", "import ccmproxy.http.server as s", bad)
        self.check(outward_imports, "ccmproxy.limits", "from .http import server", bad)
        self.check(outward_imports, "ccmproxy.limits", "from ccmproxy import __version__", bad)
        self.check(outward_imports, "ccmproxy.limits", "def f():\n    from ccmproxy import service", bad)
        self.check(outward_imports, "ccmproxy.limits", "from ccmproxy.message import Body", [])
        self.check(outward_imports, "ccmproxy.limits", "from ccmproxy import message", [])

    def test_type_checking_imports_count(self) -> None:
        text = "if TYPE_CHECKING:\n    from ccmproxy.http.server import X"
        self.check(outward_imports, "ccmproxy.limits", text, ["ccmproxy.limits"])
        self.check(outward_imports, "ccmproxy.interfaces", text, [])
        self.check(
            outward_imports,
            "ccmproxy.interfaces",
            text + "\nimport ccmproxy.service",
            ["ccmproxy.interfaces"],
        )

    def test_parts_do_not_know_each_other(self) -> None:
        self.check(outward_imports, "ccmproxy.net.tls", "import ccmproxy.http.server", ["ccmproxy.net.tls"])
        self.check(outward_imports, "ccmproxy.proxy.exchange", "import ccmproxy.http.server", [])

    def test_impure_import(self) -> None:
        for text in (
            "import time",
            "import os.path",
            "from twisted.python import log",
            "import socket",
            "import random",
        ):
            self.check(impure_imports, "ccmproxy.sse", text, ["ccmproxy.sse"])
        self.check(impure_imports, "ccmproxy.sse", "from email.utils import parsedate_to_datetime", [])
        self.check(impure_imports, "ccmproxy.http.client", "import time", [])
        self.check(impure_imports, "ccmproxy.config.loader", "import os", [])
        self.check(impure_imports, "ccmproxy.config.schema", "import os", ["ccmproxy.config.schema"])

    def test_impure_call(self) -> None:
        for text in ("open('x')", "datetime.now()", "datetime.datetime.utcnow()", "date.today()", "print(1)"):
            self.check(impure_calls, "ccmproxy.sse", text, ["ccmproxy.sse"])
        self.check(impure_calls, "ccmproxy.sse", "datetime.fromtimestamp(now)", [])
        self.check(impure_calls, "ccmproxy.config.loader", "open('x')", [])

    def test_reactor(self) -> None:
        deferred = "def f():\n    from twisted.internet import reactor"
        self.check(reactor_imports, "ccmproxy.tap", "from twisted.internet import reactor", ["ccmproxy.tap"])
        self.check(
            reactor_imports, "ccmproxy.tap", "class A:\n    import twisted.internet.reactor", ["ccmproxy.tap"]
        )
        self.check(reactor_imports, "ccmproxy.tap", deferred, [])
        self.check(reactor_imports, "ccmproxy.service", deferred, ["ccmproxy.service"])

    def test_dialect_branch(self) -> None:
        for text in (
            "if name == 'ccm': pass",
            "if 'codex' != name: pass",
            "x = kind in ('ocm', 'ccm')",
            "match x:\n    case b'claude': pass",
        ):
            found = text.count("ocm") + text.count("ccm") + text.count("codex") + text.count("claude")
            self.check(dialect_branches, "ccmproxy.routes", text, ["ccmproxy.routes"] * found)
            self.check(dialect_branches, "ccmproxy.dialects", text, [])
        self.check(dialect_branches, "ccmproxy.routes", "path = 'claude'", [])

    def test_left_over_permission(self) -> None:
        self.check(unneeded, "ccmproxy.tap", "", ["ccmproxy.tap does not look up the reactor"])
