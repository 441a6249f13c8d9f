"""Runs configurations through the loader with an environment and a home that do not exist."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from ccmproxy.config import Config, ConfigurationError, Problem, load_text

HOME = "/home/alice"


def loaded(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration that ``text`` (indented as the test likes) is."""
    return load_text(
        textwrap.dedent(text),
        "test.yaml",
        directory="/etc/ccm",
        environ=environ or {},
        home=HOME,
        home_of=lambda user: None,
    )


def found(text: str, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """Every problem of ``text``; none where it is valid."""
    try:
        loaded(text, environ)
    except ConfigurationError as error:
        assert error.problems
        return error.problems
    return ()


def complaints(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Problems as ``PATH: MESSAGE``, without those about features that are not there yet."""
    return [
        f"{problem.path}: {problem.message}" if problem.path else problem.message
        for problem in found(text, environ)
        if not problem.message.endswith("not supported yet")
    ]
