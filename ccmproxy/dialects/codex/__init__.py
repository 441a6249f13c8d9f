"""The Codex dialect: Codex CLI and the OpenAI API (``ocm`` services)."""

from __future__ import annotations

from ccmproxy._version import __version__
from ccmproxy.dialects.base import Dialect
from ccmproxy.dialects.codex.account_format import CodexAccountFormat
from ccmproxy.dialects.codex.metering import CodexMetering
from ccmproxy.dialects.codex.tariff import CODEX_TARIFF
from ccmproxy.dialects.codex.traffic import TURN_STATE, WAITING_CLIENTS, CodexTraffic
from ccmproxy.dialects.codex.websocket_frames import CodexFrames
from ccmproxy.dialects.oauth import UpstreamURLs

__all__ = ["CODEX"]

CODEX = Dialect(
    service_type="ocm",
    product="OCM",
    path_prefix=b"/ocm/v1/",
    urls=UpstreamURLs(
        api_url="https://chatgpt.com/backend-api/codex",
        key_api_url="https://api.openai.com",
        token_url="https://auth.openai.com/oauth/token",
        usage_url="https://chatgpt.com/backend-api/wham/usage",
        profile_url="",
        user_agent=f"ccmproxy/{__version__}",
    ),
    keychain_service="",
    # No comment line (F16): the client's idle timer ignores comments, and only an event with data resets it. The client
    # skips an event whose type it does not know (observed).
    keep_alive=b'data: {"type":"keepalive"}\n\n',
    probes=((b"GET", b"/"), (b"HEAD", b"/")),
    traffic=CodexTraffic(),
    metering=CodexMetering(),
    account=CodexAccountFormat(),
    tariff=CODEX_TARIFF,
    bound_header=TURN_STATE,
    keys_in_pools=False,
    retry_status=503,
    # With a base URL that contains /backend-api, and with one that does not (docs/clients/codex.md, section 3).
    usage_paths=(b"/backend-api/wham/usage", b"/api/codex/usage"),
    waiting_clients=WAITING_CLIENTS,
    frames=CodexFrames(),
)
