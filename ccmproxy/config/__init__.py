"""The configuration: one YAML file that is read and checked as a whole, and returned as frozen values.

>>> config = load("ccmproxy.yaml")  # doctest: +SKIP

Raises :class:`ConfigurationError`, which holds every problem of the file.
"""

from __future__ import annotations

from ccmproxy.config.loader import default_config, load, load_text, readable_by_others
from ccmproxy.config.problems import ConfigurationError, Problem
from ccmproxy.config.schema import json_schema
from ccmproxy.config.values import (
    Config,
    CredentialConfig,
    DirectOutboundConfig,
    ExternalConfig,
    LogConfig,
    OutboundConfig,
    PoolConfig,
    ProxyOutboundConfig,
    ServiceConfig,
    ServiceLimits,
    UpstreamConfig,
    UserConfig,
)

__all__ = [
    "Config",
    "ConfigurationError",
    "CredentialConfig",
    "DirectOutboundConfig",
    "ExternalConfig",
    "LogConfig",
    "OutboundConfig",
    "PoolConfig",
    "Problem",
    "ProxyOutboundConfig",
    "ServiceConfig",
    "ServiceLimits",
    "UpstreamConfig",
    "UserConfig",
    "default_config",
    "json_schema",
    "load",
    "load_text",
    "readable_by_others",
]
