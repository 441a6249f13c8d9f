"""Builds the programs of the benchmarks from their sources into ``bench/.build``, unless they are up to date."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).parent
_TARGET = _SOURCES / ".build"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


class CannotBuild(Exception):
    """A required program cannot be built; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs. ``tls``: None, or why there is no TLS. ``go_proxy``: the path, or why there is none."""

    upstream: Path
    load: Path
    relay: Path
    without_tls: str | None
    go_proxy: Path | str


def build_programs() -> Programs:
    """Compile what is out of date. Raises CannotBuild if there is no C compiler or a source does not compile."""
    _TARGET.mkdir(exist_ok=True)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CannotBuild("no C compiler: install gcc")
    without_tls = _check_tls(compiler)
    flags = (*_FLAGS, *(() if without_tls else ("-DBENCH_TLS",)))
    libraries = () if without_tls else ("-lssl", "-lcrypto")
    built = {}
    for name in ("upstream", "load", "relay"):
        sources = [_SOURCES / f"{name}.c", *sorted(_SOURCES.glob("*.h"))]
        built[name] = _TARGET / (name if without_tls is None else f"{name}-without-tls")
        if _outdated(built[name], sources):
            _run([compiler, *flags, "-o", str(built[name]), str(sources[0]), *libraries])
    return Programs(built["upstream"], built["load"], built["relay"], without_tls, _build_go())


def _check_tls(compiler: str) -> str | None:
    probe = subprocess.run(
        [compiler, "-E", "-x", "c", "-"],
        input=b"#include <openssl/ssl.h>\n",
        capture_output=True,
        check=False,
    )
    return None if probe.returncode == 0 else "OpenSSL's headers are missing: install libssl-dev"


def _build_go() -> Path | str:
    # The proxy needs only Go's standard library: prevent downloads, whatever the environment says.
    return _build_with_go("go_proxy", {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"})


def build_go_yamux() -> Path | str:
    """Build the load and the Go server of ``bench.yamux``; returns the path, or why there is none.

    Downloads hashicorp/yamux on the first build.
    """
    return _build_with_go("go_yamux", {"GOTOOLCHAIN": "local"})


def _build_with_go(name: str, environment: dict[str, str]) -> Path | str:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    _TARGET.mkdir(exist_ok=True)
    target, sources = _TARGET / name, _SOURCES / name
    if not _outdated(target, sorted(sources.iterdir())):
        return target
    if go is None:
        return "go is missing: install golang"
    try:
        _run([go, "build", "-o", str(target), "."], sources, environment)
    except CannotBuild as error:
        return str(error)
    return target


def _outdated(target: Path, sources: list[Path]) -> bool:
    return not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def _run(
    command: list[str], directory: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    result = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise CannotBuild(f"{Path(command[0]).name} failed: {result.stderr.strip()[-1000:]}")
