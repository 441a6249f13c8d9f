"""Habits that the package keeps: everything public says what it is and what it raises, names are not used twice for
different things, and every module has tests of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set

from twisted.trial.unittest import SynchronousTestCase

from tests.source import PACKAGE, ROOT, Module, parse, read_package

#: Modules without a test file of their own: types that whoever raises or builds them exercises. May only shrink.
UNTESTED = frozenset({"ccmproxy.http.failures", "ccmproxy.interfaces.credentials", "ccmproxy.dialects.oauth"})

#: Names that more than one module has, because they stand for one thing, and why. Not needed for what a package has of
#: each provider (``dialects.claude.traffic``, ``dialects.codex.traffic``): that is one role.
SHARED_NAMES = {
    "claude": "what is of this provider, in every package that has such things",
    "codex": "what is of this provider, in every package that has such things",
    "credentials": "the package, and the seams that it is known by",
    "network": "the package, and the seams that it is known by",
    "pool": "the package, and the class that it is about",
    "remote": "another instance: what its answers mean, and the credential that it is",
    "server": "HTTP's, and the one that the simulator is made of",
    "verdicts": "what answers mean: what is the same in all dialects, and what is of one provider",
    "store": "the package, and the seams that it is known by",
    "upstream": "one provider as it is simulated, and what all of them offer",
    "websocket": "the protocol, and what the proxy does with it",
}
PROVIDERS = ("claude", "codex")

#: Decorators of methods that are never called by name, or that complete one that is documented.
UNDOCUMENTED_DECORATORS = (
    "overload",
    "setter",
    "validator",
    "field_validator",
    "model_validator",
    "field_serializer",
)

#: Methods of Twisted's interfaces that are not in camelCase.
TWISTED_METHODS = frozenset({"connect", "listen", "request", "write"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


# Docstrings -----------------------------------------------------------------------------------------------


def without_docstring(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules, public classes, public functions and their public methods that do not say what they are.

    Not asked for: what a base class, an interface or a protocol of ours documents already; methods in camelCase,
    whose contract is Twisted's.
    """
    classes = {found.name: found for module in modules.values() for found in _classes(module.tree)}
    protocols: set[str] = set()
    for found in classes.values():
        if "Protocol" in _base_names(found):
            protocols |= _documented(found)
    for name, module in modules.items():
        if not ast.get_docstring(module.tree):
            yield f"{name}:1 the module has no docstring"
        for node in module.tree.body:
            if isinstance(node, FunctionNode) and _lacks(node):
                yield f"{name}:{node.lineno} {node.name} has no docstring"
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    yield f"{name}:{node.lineno} {node.name} has no docstring"
                inherited = protocols | _inherited(node, classes)
                for method in node.body:
                    if isinstance(method, FunctionNode) and _lacks(method) and method.name not in inherited:
                        yield f"{name}:{method.lineno} {node.name}.{method.name} has no docstring"


def silent_about_errors(modules: Mapping[str, Module]) -> Iterator[str]:
    """Public functions and methods that raise, and whose docstring does not say so; of constructors, the class's.

    Not asked for: what only passes an error on with a bare ``raise``, what a nested function raises, and what has no
    docstring of its own because a base class, an interface or Twisted documents it.
    """
    for name, module in modules.items():
        for node in module.tree.body:
            if isinstance(node, FunctionNode) and not node.name.startswith("_"):
                if _is_silent(node, ast.get_docstring(node)):
                    yield f"{name}:{node.lineno} {node.name} raises, and its docstring does not say what and when"
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for method in node.body:
                    if not isinstance(method, FunctionNode):
                        continue
                    text = ast.get_docstring(method)
                    if method.name == "__init__":
                        text = f"{ast.get_docstring(node)} {text}"
                    elif method.name.startswith("_"):
                        continue
                    if _is_silent(method, text):
                        yield (
                            f"{name}:{method.lineno} {node.name}.{method.name} raises, and its docstring does not"
                            " say what and when"
                        )


def _is_silent(node: FunctionNode, docstring: str | None) -> bool:
    return docstring is not None and "raise" not in docstring.lower() and any(_raised(node))


def _raised(node: ast.AST) -> Iterator[ast.Raise]:
    """The errors that a function raises itself."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            yield child
        yield from _raised(child)


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node


def _lacks(node: FunctionNode) -> bool:
    if node.name.startswith("_") or ast.get_docstring(node):
        return False
    if node.name != node.name.lower():
        return False
    return not any(
        ast.unparse(d).partition("(")[0].endswith(UNDOCUMENTED_DECORATORS) for d in node.decorator_list
    )


def _base_names(node: ast.ClassDef) -> set[str]:
    """Last names of the base classes, and of the interfaces that the class declares to implement."""
    bases = list(node.bases)
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in ("implementer", "provider"):
            bases += decorator.args
    return {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in bases}


def _documented(node: ast.ClassDef) -> set[str]:
    return {child.name for child in node.body if isinstance(child, FunctionNode) and ast.get_docstring(child)}


def _inherited(
    node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], seen: Set[str] = frozenset()
) -> set[str]:
    """Names that a base class or interface documents: one of ours, or of Twisted's."""
    found: set[str] = set()
    for name in _base_names(node) - seen:
        if name in classes:
            found |= _documented(classes[name]) | _inherited(classes[name], classes, seen | {node.name})
        else:
            found |= TWISTED_METHODS
    return found


# Names ----------------------------------------------------------------------------------------------------


def shared_names(modules: Mapping[str, Module]) -> Iterator[str]:
    """Names that several modules have for different things, and reasons that are not needed any more.

    Of a dotted name the last part counts: it is what people call the module.
    """
    roles: dict[str, dict[str, list[str]]] = {}
    for name in modules:
        parts = name.split(".")
        role = ".".join("(provider)" if part in PROVIDERS else part for part in parts[:-1])
        roles.setdefault(parts[-1], {}).setdefault(role, []).append(name)
    shared = {last: found for last, found in roles.items() if len(found) > 1}
    for last, found in shared.items():
        if last not in SHARED_NAMES:
            names = sorted(name for each in found.values() for name in each)
            yield f"{', '.join(names)} are all called {last}: one of them needs a name of its own"
    for last in sorted(SHARED_NAMES.keys() - shared.keys()):
        yield f"{last} is the name of one thing only: take it out of SHARED_NAMES"


# Tests ----------------------------------------------------------------------------------------------------


def mirror(module: Module) -> str | None:
    """Where the tests of a module are, from the repository's root; None where there is nothing to test.

    ``ccmproxy/http/server.py`` → ``tests/http/test_server.py``; a package's own code → ``tests/http/test_init.py``.
    Nothing to test: a module that has no code in functions (it gathers names, or declares types).
    """
    functions = (node for node in ast.walk(module.tree) if isinstance(node, FunctionNode))
    if not any(len(node.body) > 1 or not ast.get_docstring(node) for node in functions):
        return None
    parts = module.name.split(".")[1:]
    if module.is_package:
        parts.append("init")
    return "/".join(["tests", *parts[:-1], f"test_{parts[-1].removeprefix('_')}.py"])


def without_tests(modules: Mapping[str, Module], files: Set[str]) -> Iterator[str]:
    """Modules without their test file, and exceptions that are not needed any more."""
    for name, module in modules.items():
        path = mirror(module)
        if path is None:
            continue
        if path not in files and name not in UNTESTED:
            yield f"{name} has no tests of its own: write {path}"
        elif path in files and name in UNTESTED:
            yield f"{name} has tests of its own now: take it out of UNTESTED"
    for name in sorted(UNTESTED - modules.keys()):
        yield f"{name} is gone: take it out of UNTESTED"


def clocks_for_unix_time(modules: Mapping[str, Module]) -> Iterator[str]:
    """Places where the seconds of a clock, which is monotonic, are passed or kept as Unix time (``now``). The simulator
    may do that: there is one clock in its world."""
    for name, module in modules.items():
        if name.startswith(("ccmproxy.simulator", "ccmproxy.testing")):
            continue
        for node in ast.walk(module.tree):
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "now":
                values = [node.value]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(each, ast.Attribute) and each.attr.strip("_") == "now" for each in targets):
                    values = [node.value]
            for value in values:
                if any(
                    isinstance(each, ast.Attribute) and each.attr == "seconds" for each in ast.walk(value)
                ):
                    yield f"{name}:{value.lineno} takes a clock's seconds for Unix time"


class ConventionTests(SynchronousTestCase):
    """The package as it is."""

    def none(self, found: Iterator[str]) -> None:
        """Fail with every sentence in ``found``."""
        sentences = list(found)
        if sentences:
            self.fail("\n" + "\n".join(sentences))

    def test_docstrings(self) -> None:
        self.none(without_docstring(read_package()))

    def test_errors_are_documented(self) -> None:
        self.none(silent_about_errors(read_package()))

    def test_no_name_stands_for_two_things(self) -> None:
        self.none(shared_names(read_package()))

    def test_every_module_has_its_tests(self) -> None:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
        self.none(without_tests(read_package(), files))

    def test_the_two_clocks_are_kept_apart(self) -> None:
        self.none(clocks_for_unix_time(read_package()))

    def test_test_folders_are_packages(self) -> None:
        folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
        missing = [
            str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()
        ]
        self.assertEqual(missing, [], "trial does not look into a folder without __init__.py")


class RuleTests(SynchronousTestCase):
    """Each rule finds what it is there to find, and lets the innocent pass."""

    def lacking(self, text: str) -> list[str]:
        """The names in ``text`` that lack a docstring."""
        modules = {"ccmproxy.x": parse("ccmproxy.x", '"""X."""\n' + text)}
        return [sentence.split()[1] for sentence in without_docstring(modules)]

    def test_module_docstring(self) -> None:
        found = list(without_docstring({"ccmproxy.x": parse("ccmproxy.x", "y = 1")}))
        self.assertEqual(found, ["ccmproxy.x:1 the module has no docstring"])

    def test_public_names(self) -> None:
        self.assertEqual(self.lacking("def f(): pass\nasync def g(): pass\ndef _h(): pass"), ["f", "g"])
        self.assertEqual(
            self.lacking("class A:\n    def f(self): pass\n    def __len__(self): pass"), ["A", "A.f"]
        )
        self.assertEqual(self.lacking("class _A:\n    def f(self): pass"), [])

    def silent(self, text: str) -> list[str]:
        """The names in ``text`` that raise without saying so."""
        modules = {"ccmproxy.x": parse("ccmproxy.x", text)}
        return [sentence.split()[1] for sentence in silent_about_errors(modules)]

    def test_errors(self) -> None:
        raising = "    if x:\n        raise ValueError\n"
        self.assertEqual(self.silent(f"def f():\n    'F.'\n{raising}"), ["f"])
        self.assertEqual(self.silent(f"async def f():\n    'F.'\n{raising}"), ["f"])
        self.assertEqual(self.silent(f"def f():\n    'F. Raises ValueError for x.'\n{raising}"), [])
        for innocent in (
            f"def _f():\n    'F.'\n{raising}",
            f"def f():\n{raising}",
            "def f():\n    'F.'\n    try: g()\n    except ValueError: raise",
            "def f():\n    'F.'\n    def g():\n        raise ValueError\n    return g",
            "class _A:\n    def f(self):\n        'F.'\n        raise ValueError",
        ):
            self.assertEqual(self.silent(innocent), [], innocent)

    def test_errors_of_methods_and_constructors(self) -> None:
        method = "    def {name}(self):\n{docstring}        raise ValueError\n"
        f = method.format(name="f", docstring="        'F.'\n")
        init = method.format(name="__init__", docstring="")
        self.assertEqual(self.silent(f"class A:\n    'A.'\n{f}{init}"), ["A.f", "A.__init__"])
        self.assertEqual(self.silent(f"class A:\n    'A. Raises ValueError.'\n{f}{init}"), ["A.f"])
        private = method.format(name="_f", docstring="        'F.'\n")
        self.assertEqual(self.silent(f"class A:\n    'A.'\n{private}"), [])

    def test_twisted_methods(self) -> None:
        self.assertEqual(self.lacking("class A:\n    'A.'\n    def dataReceived(self, data): pass"), [])

    def test_inherited_docstring(self) -> None:
        base = "class B:\n    'B.'\n    def f(self): 'F.'\n"
        self.assertEqual(self.lacking(base + "class A(B):\n    'A.'\n    def f(self): pass"), [])
        self.assertEqual(self.lacking(base + "class A(x.B[int]):\n    'A.'\n    def f(self): pass"), [])
        self.assertEqual(
            self.lacking(base + "@implementer(B)\nclass A:\n    'A.'\n    def f(self): pass"), []
        )
        self.assertEqual(self.lacking(base + "class A(B):\n    'A.'\n    def g(self): pass"), ["A.g"])
        self.assertEqual(self.lacking(base + "class A:\n    'A.'\n    def f(self): pass"), ["A.f"])
        protocol = base.replace("B:", "B(typing.Protocol):")
        self.assertEqual(self.lacking(protocol + "class A:\n    'A.'\n    def f(self): pass"), [])

    def test_methods_of_twisted_interfaces(self) -> None:
        self.assertEqual(
            self.lacking("@implementer(ITransport)\nclass A:\n    'A.'\n    def write(self): pass"), []
        )
        self.assertEqual(self.lacking("class A:\n    'A.'\n    def write(self): pass"), ["A.write"])

    def test_cyclic_bases(self) -> None:
        self.assertEqual(
            self.lacking("class A(B):\n    'A.'\nclass B(A):\n    'B.'\n    def f(self): pass"), ["B.f"]
        )

    def test_clocks_for_unix_time(self) -> None:
        def lines(text: str, name: str = "ccmproxy.x") -> int:
            """How many places are found."""
            return len(list(clocks_for_unix_time({name: parse(name, text)})))

        for wrong in (
            "f(now=clock.seconds)",
            "f(now=self._clock.seconds())",
            "self._now = now or clock.seconds",
            "self._now: object = clock.seconds",
        ):
            self.assertEqual(lines(wrong), 1, wrong)
            self.assertEqual(lines(wrong, "ccmproxy.simulator.x"), 0)
        for right in (
            "f(now=surroundings.now)",
            "self._now = now",
            "now = clock.seconds()",
            "f(seconds=clock.seconds)",
        ):
            self.assertEqual(lines(right), 0, right)

    def test_shared_names(self) -> None:
        def found(*names: str) -> list[str]:
            """What is said of these modules, and of those whose names are shared with a reason."""
            allowed = [f"ccmproxy.{place}.{name}" for name in SHARED_NAMES for place in ("here", "there")]
            return list(shared_names({name: parse(name, "") for name in [*allowed, *names]}))

        self.assertEqual(found(), [])
        self.assertEqual(found("ccmproxy.dialects.claude.traffic", "ccmproxy.dialects.codex.traffic"), [])
        (sentence,) = found("ccmproxy.dialects.claude.traffic", "ccmproxy.http.traffic")
        self.assertIn(
            "ccmproxy.dialects.claude.traffic, ccmproxy.http.traffic are all called traffic", sentence
        )
        (sentence,) = found("ccmproxy.dialects.claude.x", "ccmproxy.dialects.codex.x", "ccmproxy.dialects.x")
        self.assertIn("are all called x", sentence)
        (sentence,) = found("ccmproxy.proxy", "ccmproxy.root.proxy")
        self.assertIn("are all called proxy", sentence)

    def test_a_reason_that_is_not_needed(self) -> None:
        names = [f"ccmproxy.{place}.{name}" for name in SHARED_NAMES for place in ("here", "there")]
        names.remove("ccmproxy.there.server")
        found = list(shared_names({name: parse(name, "") for name in names}))
        self.assertEqual(found, ["server is the name of one thing only: take it out of SHARED_NAMES"])

    def test_mirror(self) -> None:
        for name, text, is_package, expected in (
            ("ccmproxy.state.limits", "def f(): pass", False, "tests/state/test_limits.py"),
            ("ccmproxy.state.limits", "class A:\n    def f(): pass", False, "tests/state/test_limits.py"),
            ("ccmproxy.state.limits", "class A:\n    def f(): 'F.'", False, None),
            ("ccmproxy.http.server.factory", "def f(): pass", False, "tests/http/server/test_factory.py"),
            ("ccmproxy.http._wheel", "def f(): pass", False, "tests/http/test_wheel.py"),
            ("ccmproxy.http", "x = 1", True, None),
            ("ccmproxy.http", "def f(): pass", True, "tests/http/test_init.py"),
            ("ccmproxy", "def f(): pass", True, "tests/test_init.py"),
        ):
            self.assertEqual(mirror(parse(name, text, is_package)), expected)

    def test_missing_and_left_over(self) -> None:
        modules = {name: parse(name, "def f(): pass") for name in [*UNTESTED, f"{PACKAGE}.limits"]}
        self.assertEqual(list(without_tests(modules, {"tests/test_limits.py"})), [])
        self.assertEqual(len(list(without_tests(modules, set()))), 1)
        self.assertEqual(
            len(list(without_tests(modules, {"tests/test_limits.py", "tests/dialects/test_oauth.py"}))), 1
        )
        del modules["ccmproxy.dialects.oauth"]
        self.assertEqual(len(list(without_tests(modules, {"tests/test_limits.py"}))), 1)
