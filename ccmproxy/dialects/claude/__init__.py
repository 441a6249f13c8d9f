"""The Claude dialect: Claude Code and the Anthropic API (``ccm`` services)."""

from __future__ import annotations

from ccmproxy._version import __version__
from ccmproxy.dialects.base import Dialect
from ccmproxy.dialects.claude.account_format import ClaudeAccountFormat
from ccmproxy.dialects.claude.metering import ClaudeMetering
from ccmproxy.dialects.claude.tariff import CLAUDE_TARIFF
from ccmproxy.dialects.claude.traffic import ClaudeTraffic
from ccmproxy.dialects.oauth import UpstreamURLs
from ccmproxy.policy.waits import WaitingClient

__all__ = ["CLAUDE"]

_SDK_SOURCE = "docs/clients/claude-code.md, sections 7 and 9: 3 s and 120 s were waited for"

CLAUDE = Dialect(
    service_type="ccm",
    product="CCM",
    path_prefix=b"/ccm/v1/",
    urls=UpstreamURLs(
        api_url="https://api.anthropic.com",
        token_url="https://platform.claude.com/v1/oauth/token",
        usage_url="https://api.anthropic.com/api/oauth/usage",
        profile_url="https://api.anthropic.com/api/oauth/profile",
        user_agent=f"ccmproxy/{__version__}",
    ),
    keychain_service="Claude Code-credentials",
    #: An event that every client ignores, but that resets its idle timer (F16, F18).
    keep_alive=b'event: ping\ndata: {"type": "ping"}\n\n',
    # Requests that clients make before they have any credential (observed: pre-connects of the CLI).
    probes=((b"GET", b"/"), (b"HEAD", b"/"), (b"HEAD", b"/api/hello")),
    traffic=ClaudeTraffic(),
    metering=ClaudeMetering(),
    account=ClaudeAccountFormat(),
    tariff=CLAUDE_TARIFF,
    has_client_lock=True,
    usage_paths=(b"/api/oauth/usage",),
    waiting_clients=(
        WaitingClient(
            "claude-cli", (2, 1, 90), "docs/clients/claude-code.md, sections 5 and 9: waits, up to 60 s"
        ),
        WaitingClient("Anthropic/Python", (0, 60), _SDK_SOURCE),
        WaitingClient("AsyncAnthropic/Python", (0, 60), _SDK_SOURCE),
    ),
)
