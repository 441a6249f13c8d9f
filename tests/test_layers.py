"""The architecture, as a table that the source is held to: who may import whom, and what the pure ring must not do.

Imports point inwards only: pure modules know values, parts know Twisted and the pure modules, surfaces know the
parts, the root knows everything. A module that stands nowhere in the table is an error: decide where it belongs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from twisted.trial.unittest import SynchronousTestCase

from tests.source import PACKAGE, Module, imports, is_ours, parse, read_package


def names(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


def unit(name: str) -> str | None:
    """The unit that a dotted name of ours belongs to: the longest one in the table that it lies in, else None."""
    path = name.removeprefix(PACKAGE).removeprefix(".")
    if name in (PACKAGE, VERSION):
        return ""
    while path:
        if path in MAY_IMPORT:
            return path
        path = path.rpartition(".")[0]
    return None


# The table ------------------------------------------------------------------------------------------------

#: Pure units, which know neither Twisted nor the clock.
PURE = names(
    "http websocket yamux state policy dialects dialects.claude dialects.codex dialects.catalog config"
)
#: What parts and surfaces may know of the pure ring. One dialect reaches them as an object that provides
#: ``ccmproxy.interfaces.facets``, so that the dialects themselves are not among it.
VALUES = names("http interfaces state policy dialects config")

#: Unit → the other units that it may import. A unit is a folder; of nested ones the innermost counts. The empty name
#: is what stands at the top.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    # the seams: values of zope.interface that everybody may know
    "interfaces": frozenset(),
    # pure
    "http": frozenset(),
    "websocket": names("http"),
    "yamux": frozenset(),
    "state": frozenset(),
    "policy": names("http state"),
    "dialects": names("http interfaces policy state"),
    "dialects.claude": names("http interfaces policy state dialects") | {""},
    "dialects.codex": names("http interfaces policy state dialects") | {""},
    "dialects.catalog": names("dialects dialects.claude dialects.codex"),
    "config": names("dialects.catalog policy state"),
    # parts
    "store": names("interfaces state"),
    "transports": names("config interfaces policy"),
    "network": names("interfaces"),
    "http.server": names("http transports"),
    "http.client": names("http transports"),
    "credentials": VALUES | names("http.client transports"),
    "proxy": VALUES | names("http.client http.server transports websocket"),
    "reverse": VALUES | names("http.client http.server transports yamux"),
    # surfaces
    "surfaces": VALUES | names("http.server proxy reverse"),
    "simulator": names("dialects http http.server state testing transports websocket"),
    "testing": frozenset(),
    # root
    "root": VALUES
    | names("dialects.catalog http.client http.server transports network credentials proxy reverse surfaces"),
    "": names("config root"),
    # programs around it
    "demo": names("config root simulator testing http state websocket"),
    "surfaces.cli": names("config demo state") | {""},
}
#: The rings, from the inside out: no unit may import one of a ring further out.
RINGS = (
    PURE | names("interfaces"),
    names("store transports network http.server http.client credentials proxy reverse"),
    names("surfaces simulator testing"),
    names("root") | {""},
    names("demo surfaces.cli"),
)
#: Where the interfaces are, which name types on both of their sides.
SEAMS = "interfaces"
#: The one module at the top that everybody may know.
VERSION = "ccmproxy._version"

#: Libraries that do no I/O and read no clock.
PURE_LIBRARIES = names(
    """
    __future__ abc base64 binascii bisect calendar codecs collections contextlib copy dataclasses datetime decimal
    difflib email.utils enum fnmatch.fnmatchcase functools hashlib heapq hmac http.HTTPStatus ipaddress itertools json
    math msgspec operator re statistics string struct textwrap types typing typing_extensions urllib.parse uuid zlib
    """
)
#: Module or package of the pure ring → what it may use besides.
PURE_EXTRAS: Mapping[str, frozenset[str]] = {
    "ccmproxy.interfaces": frozenset({"zope.interface"}),
    "ccmproxy.http.content_coding": frozenset({"brotli", "zstandard"}),
    "ccmproxy.dialects": frozenset({"zope.interface"}),
    # a table of prices that is shipped; what would fetch a newer one is never called
    "ccmproxy.policy.price_list": frozenset({"genai_prices"}),
    # the exclusive or in machine code, a pure function, where autobahn's wheel has it
    "ccmproxy.websocket.masking": frozenset({"_nvx_xormasker"}),
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
REACTOR_USERS = frozenset({"ccmproxy.root.tap"})
REACTOR = "twisted.internet.reactor"

#: A dialect's name means something to these alone; everywhere else it is an object that answers questions.
DIALECT_NAMES = frozenset({"ccm", "ocm", "claude", "codex"})
KNOW_DIALECTS = names("config dialects dialects.claude dialects.codex dialects.catalog")


# The rules ------------------------------------------------------------------------------------------------


def misplaced(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules that the table does not know."""
    for name in modules:
        if unit(name) is None:
            yield (
                f"{name} is in no ring: decide whether it is pure, a part, a surface or the root, and enter"
                f" its folder in MAY_IMPORT of {__name__}"
            )


def outward_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Imports between our own modules that the table does not allow."""
    for name, module in modules.items():
        own = unit(name)
        if own is None:
            continue
        allowed = MAY_IMPORT[own] | {own}
        for found in imports(module, modules):
            if not is_ours(found.target) or found.target == VERSION or unit(found.target) in allowed:
                continue
            if found.type_checking and own == SEAMS:
                continue  # the seams name the types on both of their sides
            yield f"{name}:{found.line} imports {found.target}: {own or 'ccmproxy'} must not know it"


def cycles(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules that import each other, directly or through others; what only a type checker imports counts too.

    Tarjan's algorithm: a strongly connected component of more than one module is a cycle.
    """
    graph = {
        name: sorted({found.target for found in imports(module, modules)} & modules.keys() - {name})
        for name, module in modules.items()
    }
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> Iterator[str]:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in graph[name]:
            if other not in order:
                yield from visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            component = path[path.index(name) :]
            del path[path.index(name) :]
            if len(component) > 1:
                yield f"{', '.join(sorted(component))} import each other: {len(component)} modules"

    for name in graph:
        if name not in order:
            yield from visit(name)


def impure_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Libraries that the pure ring uses and must not."""
    for name, module in modules.items():
        if unit(name) not in PURE | {SEAMS}:
            continue
        allowed = set(PURE_LIBRARIES)
        for owner, extras in PURE_EXTRAS.items():
            if name == owner or name.startswith(f"{owner}."):
                allowed |= extras
        for found in imports(module, modules):
            if is_ours(found.target) or any(_within(found.target, library) for library in allowed):
                continue
            if found.type_checking and unit(name) == SEAMS:
                continue
            yield f"{name}:{found.line} imports {found.target}: the pure ring does no I/O and reads no clock"


def impure_calls(modules: Mapping[str, Module]) -> Iterator[str]:
    """Calls in the pure ring that do I/O or read the clock although the import is harmless."""
    for name, module in modules.items():
        if unit(name) not in PURE | {SEAMS}:
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
        if unit(name) in KNOW_DIALECTS:
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

    def test_there_are_no_cycles(self) -> None:
        self.none(cycles(self.modules))

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

    def test_every_unit_is_in_one_ring(self) -> None:
        self.assertEqual(sorted(unit for ring in RINGS for unit in ring), sorted(MAY_IMPORT))

    def test_rings_do_not_reach_outwards(self) -> None:
        for depth, ring in enumerate(RINGS):
            outer: set[str] = set().union(*RINGS[depth + 1 :])
            for name in ring:
                found = MAY_IMPORT[name] & outer - {""}
                self.assertFalse(found, f"{name} may reach outwards")

    def test_parts_stay_apart(self) -> None:
        for name in ("http.server", "http.client", "transports", "network"):
            self.assertFalse(MAY_IMPORT[name] & names("http.server http.client credentials proxy"), name)
        self.assertNotIn("proxy", MAY_IMPORT["credentials"])
        self.assertNotIn("credentials", MAY_IMPORT["proxy"])

    def test_units_do_not_import_each_other(self) -> None:
        seen: set[str] = set()
        while rest := MAY_IMPORT.keys() - seen:
            free = {name for name in rest if not MAY_IMPORT[name] - seen - {""}}
            self.assertTrue(free, f"a cycle among {sorted(rest)}")
            seen |= free


class RuleTests(SynchronousTestCase):
    """Each rule finds what it is there to find, and lets the innocent pass."""

    def check(self, rule: object, name: str, text: str, expected: list[str]) -> None:
        """``rule`` on a package that consists of ``name`` and the few modules below."""
        assert callable(rule)
        modules = {
            other: parse(other, "", is_package=other == "ccmproxy.http")
            for other in (
                "ccmproxy",
                "ccmproxy.http",
                "ccmproxy.http.server.factory",
                "ccmproxy.http.message",
                "ccmproxy.root.service",
            )
        }
        modules[name] = parse(name, text)
        self.assertEqual([sentence.split(":")[0] for sentence in rule(modules)], expected)

    def test_unknown_module(self) -> None:
        self.check(misplaced, "ccmproxy.utils", "", ["ccmproxy.utils is in no ring"])
        self.check(misplaced, "ccmproxy.http.http2", "", [])

    def test_outward_import(self) -> None:
        bad = ["ccmproxy.state.limits"]
        self.check(
            outward_imports, "ccmproxy.state.limits", "from ccmproxy.http.server.factory import X", bad
        )
        self.check(outward_imports, "ccmproxy.state.limits", "from ccmproxy.http import server", bad)
        self.check(outward_imports, "ccmproxy.state.limits", "import ccmproxy.http.server.factory as s", bad)
        self.check(outward_imports, "ccmproxy.state.limits", "from ..http import server", bad)
        self.check(outward_imports, "ccmproxy.state.limits", "from ccmproxy import __version__", bad)
        self.check(
            outward_imports, "ccmproxy.state.limits", "def f():\n    from ccmproxy import service", bad
        )
        self.check(outward_imports, "ccmproxy.state.limits", "from ccmproxy.state.availability import X", [])
        self.check(outward_imports, "ccmproxy.state.limits", "from ccmproxy.state import availability", [])

    def test_cycle(self) -> None:
        one = "from ccmproxy.http.server import factory"
        modules = {
            name: parse(name, text)
            for name, text in (
                ("ccmproxy.a", "import ccmproxy.b"),
                ("ccmproxy.b", "if TYPE_CHECKING:\n    import ccmproxy.c"),
                ("ccmproxy.c", "def f():\n    from ccmproxy.a import x"),
                ("ccmproxy.d", "import ccmproxy.a"),
            )
        }
        self.assertEqual(
            list(cycles(modules)), ["ccmproxy.a, ccmproxy.b, ccmproxy.c import each other: 3 modules"]
        )
        del modules["ccmproxy.b"]
        self.assertEqual(list(cycles(modules)), [])
        self.check(cycles, "ccmproxy.state.limits", one, [])

    def test_type_checking_imports_count(self) -> None:
        text = "if TYPE_CHECKING:\n    from ccmproxy.http.server.factory import X"
        self.check(outward_imports, "ccmproxy.state.limits", text, ["ccmproxy.state.limits"])
        self.check(outward_imports, "ccmproxy.interfaces", text, [])
        self.check(
            outward_imports,
            "ccmproxy.interfaces",
            text + "\nimport ccmproxy.root.service",
            ["ccmproxy.interfaces"],
        )

    def test_parts_do_not_know_each_other(self) -> None:
        self.check(
            outward_imports,
            "ccmproxy.transports.tls",
            "import ccmproxy.http.server.factory",
            ["ccmproxy.transports.tls"],
        )
        self.check(outward_imports, "ccmproxy.proxy.exchange", "import ccmproxy.http.server.factory", [])

    def test_impure_import(self) -> None:
        for text in (
            "import time",
            "import os.path",
            "from twisted.python import log",
            "import socket",
            "import random",
        ):
            self.check(impure_imports, "ccmproxy.dialects.sse", text, ["ccmproxy.dialects.sse"])
        self.check(
            impure_imports, "ccmproxy.dialects.sse", "from email.utils import parsedate_to_datetime", []
        )
        self.check(impure_imports, "ccmproxy.http.client.connection_pool", "import time", [])
        self.check(impure_imports, "ccmproxy.config.loader", "import os", [])
        self.check(impure_imports, "ccmproxy.config.schema", "import os", ["ccmproxy.config.schema"])

    def test_impure_call(self) -> None:
        for text in ("open('x')", "datetime.now()", "datetime.datetime.utcnow()", "date.today()", "print(1)"):
            self.check(impure_calls, "ccmproxy.dialects.sse", text, ["ccmproxy.dialects.sse"])
        self.check(impure_calls, "ccmproxy.dialects.sse", "datetime.fromtimestamp(now)", [])
        self.check(impure_calls, "ccmproxy.config.loader", "open('x')", [])

    def test_reactor(self) -> None:
        deferred = "def f():\n    from twisted.internet import reactor"
        self.check(
            reactor_imports,
            "ccmproxy.root.tap",
            "from twisted.internet import reactor",
            ["ccmproxy.root.tap"],
        )
        self.check(
            reactor_imports,
            "ccmproxy.root.tap",
            "class A:\n    import twisted.internet.reactor",
            ["ccmproxy.root.tap"],
        )
        self.check(reactor_imports, "ccmproxy.root.tap", deferred, [])
        self.check(reactor_imports, "ccmproxy.root.service", deferred, ["ccmproxy.root.service"])

    def test_dialect_branch(self) -> None:
        for text in (
            "if name == 'ccm': pass",
            "if 'codex' != name: pass",
            "x = kind in ('ocm', 'ccm')",
            "match x:\n    case b'claude': pass",
        ):
            found = text.count("ocm") + text.count("ccm") + text.count("codex") + text.count("claude")
            self.check(
                dialect_branches, "ccmproxy.surfaces.routes", text, ["ccmproxy.surfaces.routes"] * found
            )
            self.check(dialect_branches, "ccmproxy.dialects.catalog", text, [])
        self.check(dialect_branches, "ccmproxy.surfaces.routes", "path = 'claude'", [])

    def test_left_over_permission(self) -> None:
        self.check(unneeded, "ccmproxy.root.tap", "", ["ccmproxy.root.tap does not look up the reactor"])
