"""What an installation gets: the package, its type marker, the ``ccmproxy`` command and the twistd plugin."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import Options
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ccmproxy import __version__
from tests.source import PACKAGE, ROOT, imports, is_ours, read_package

PLUGIN = "twisted/plugins/ccmproxy_plugin.py"
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools replaces the arguments
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""

#: Name that is imported → name of the distribution that brings it, where they differ.
DISTRIBUTIONS = {"yaml": "pyyaml", "OpenSSL": "pyopenssl", "service_identity": "service-identity"}
DISTRIBUTIONS |= {"_nvx_xormasker": "autobahn"}
DISTRIBUTIONS |= {"genai_prices": "genai-prices"}
DISTRIBUTIONS |= {"zope": "zope.interface", "pydantic_core": "pydantic"}
#: Distributions that are needed without being imported by name: Twisted's own TLS parts.
INDIRECT = frozenset({"pyopenssl", "service-identity"})


@dataclass(frozen=True)
class Built:
    """What a build made. Names are relative to the archive's root."""

    wheel: frozenset[str]
    sdist: frozenset[str]
    metadata: Message
    entry_points: str


@functools.cache
def build() -> Built:
    """Build wheel and sdist from a copy of the tree, offline. Raises SkipTest where setuptools is too old for that."""
    version = importlib.metadata.version("setuptools")
    if int(version.partition(".")[0]) < 77:
        raise SkipTest(f"setuptools {version} cannot build the package (77 or newer can)")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "source"), Path(folder, "out")
        ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "_trial_temp*", "node_modules")
        shutil.copytree(ROOT, source, ignore=ignored)
        done = subprocess.run(
            [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"the build failed:\n{done.stderr}")
        with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
            files = frozenset(wheel.namelist())
            info = f"ccmproxy-{__version__}.dist-info"
            metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
            entry_points = wheel.read(f"{info}/entry_points.txt").decode()
        with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
            sources = frozenset(name.partition("/")[2] for name in sdist.getnames())
    return Built(files, sources, metadata, entry_points)


def package_files() -> set[str]:
    """Every source file that must be installed, from the repository's root: Python, and the store's schema."""
    found = (path for pattern in ("*.py", "*.sql") for path in (ROOT / PACKAGE).rglob(pattern))
    return {path.relative_to(ROOT).as_posix() for path in found}


def project() -> dict[str, Any]:
    """The ``project`` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


class ArchiveTests(SynchronousTestCase):
    """The wheel and the source distribution."""

    def test_wheel(self) -> None:
        files = {name for name in build().wheel if ".dist-info/" not in name}
        self.assertEqual(files, package_files() | {f"{PACKAGE}/py.typed", PLUGIN})

    def test_sdist(self) -> None:
        files = build().sdist
        needed = package_files() | {
            f"{PACKAGE}/py.typed",
            PLUGIN,
            "pyproject.toml",
            "setup.cfg",
            "README.md",
            "LICENSE",
        }
        self.assertEqual(needed - files, set())
        self.assertEqual([name for name in files if name.startswith(("tests", "bench"))], [])

    def test_metadata(self) -> None:
        metadata = build().metadata
        self.assertEqual(metadata["Version"], __version__)
        self.assertEqual(metadata["Requires-Python"], ">=3.11")
        self.assertEqual(metadata["License-Expression"], "MIT")
        self.assertEqual(metadata["License-File"], "LICENSE")
        self.assertIn("ccmproxy = ccmproxy.surfaces.cli:main", build().entry_points)


class RequirementTests(SynchronousTestCase):
    """What is imported is declared, and what is declared is imported."""

    def test_requirements(self) -> None:
        declared = {re.split(r"[^\w.-]", line)[0].lower() for line in project()["dependencies"]}
        modules = read_package()
        imported = {
            found.target.partition(".")[0]
            for module in modules.values()
            for found in imports(module, modules)
            if not is_ours(found.target)
        }
        foreign = imported - sys.stdlib_module_names
        needed = {DISTRIBUTIONS.get(name, name.lower()) for name in foreign}
        self.assertEqual(needed - declared, set(), "imported, but not in the dependencies of pyproject.toml")
        self.assertEqual(declared - needed - INDIRECT, set(), "in the dependencies, but not imported")


class PluginTests(SynchronousTestCase):
    """What twistd finds."""

    def test_plugin(self) -> None:
        found = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "ccmproxy"]
        self.assertEqual(len(found), 1)

    def test_plugin_can_be_loaded(self) -> None:
        (maker,) = (maker for maker in getPlugins(IServiceMaker) if maker.tapname == "ccmproxy")
        self.assertTrue(issubclass(maker.options, Options))
        self.assertTrue(callable(maker.makeService))

    def test_no_package_of_twisteds_is_shadowed(self) -> None:
        # Twisted's plugin folder is shared: a file that makes it a package of ours would hide Twisted.
        self.assertEqual([path.name for path in (ROOT / "twisted").rglob("__init__.py")], [])
