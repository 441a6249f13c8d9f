"""The dialects, by the ``type`` of the services that use them."""

from __future__ import annotations

from ccmproxy.dialects.base import Dialect
from ccmproxy.dialects.claude import CLAUDE
from ccmproxy.dialects.codex import CODEX

__all__ = ["DIALECTS"]

DIALECTS: dict[str, Dialect] = {dialect.service_type: dialect for dialect in (CLAUDE, CODEX)}
