"""The proxies that are compared: how each is configured and started, with settings that favour it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from bench.bodies import CLIENT_TOKEN, UPSTREAM_TOKEN
from bench.certificates import HOST
from bench.machine import free_port

#: The source tree of these benchmarks, whose ccmproxy is measured, even if another one is installed.
_ROOT = Path(__file__).resolve().parent.parent


#: The token between the lending and the borrowing instance.
_LENT = "bench-token-between-instances"

_LOGIN = {
    "accessToken": UPSTREAM_TOKEN,
    "refreshToken": "sk-ant-ort01-bench",
    "expiresAt": 4_102_444_800_000,  # Unix ms: the year 2100
    "scopes": ["user:inference", "user:profile"],
    "subscriptionType": "max",
    "rateLimitTier": "default_claude_max_20x",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a peer forwards to: a port of the loopback address, and with TLS the authority to verify it with."""

    port: int
    ca: Path | None
    #: Whether the requests are for WebSockets.
    websocket: bool = False

    @property
    def url(self) -> str:
        """Base URL of the upstream."""
        return f"https://{HOST}:{self.port}" if self.ca else f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a peer."""

    arguments: Sequence[str | Path]
    environment: Mapping[str, str] | None = None


class Peer(ABC):
    """A proxy to measure.

    ``http``, ``websocket``: which scenarios it takes part in; ``replaces_token``: whether it replaces the client's
    token by the upstream's.
    """

    name: ClassVar[str]
    http: ClassVar[bool] = True
    websocket: ClassVar[bool] = False
    replaces_token: ClassVar[bool] = True
    #: Seconds during which its first requests may fail, because it is still connecting to another instance.
    warm_up: ClassVar[float] = 0.0

    @abstractmethod
    def missing(self) -> str | None:
        """Why the peer cannot be started here, or None."""

    @abstractmethod
    def version(self) -> str:
        """The peer's name and version."""

    @abstractmethod
    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """Write the peer's configuration into ``directory``; it must listen on ``port`` of the loopback address."""


class Nginx(Peer):
    """nginx with one worker."""

    name = "nginx"
    websocket = True
    _program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

    def missing(self) -> str | None:
        """See the base class."""
        return None if self._program else "install nginx to compare"

    def version(self) -> str:
        """See the base class."""
        return _version([str(self._program), "-v"])

    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """Bodies and streams are passed on without buffering; a 1 MB body is never written to disk."""
        tls = ""
        if target.ca:
            tls = f"""
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {target.ca};
      proxy_ssl_server_name on;
      proxy_ssl_name {HOST};
      proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
        connection = 'Connection ""'
        if target.websocket:
            # Relayed WebSocket data passes through these two buffers, whose default sizes are 1 and 4 KiB.
            connection = (
                "Upgrade $http_upgrade;\n      proxy_set_header Connection $http_connection;\n"
                "      proxy_buffer_size 64k;\n      proxy_buffers 4 64k"
            )
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = f"""{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 300;
  tcp_nodelay on;
  {"client_header_buffer_size 64k;" if target.websocket else ""}
  client_max_body_size 0;
  upstream messages {{
    server 127.0.0.1:{target.port};
    keepalive 4096;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {"https" if target.ca else "http"}://messages;
      proxy_http_version 1.1;
      proxy_set_header {connection};
      proxy_set_header Authorization "Bearer {UPSTREAM_TOKEN}";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600;{tls}
    }}
  }}
}}
"""
        path = directory / "nginx.conf"
        path.write_text(configuration)
        return Start([str(self._program), "-e", directory / "error.log", "-c", path])


class Haproxy(Peer):
    """haproxy with one thread."""

    name = "haproxy"
    _program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")

    def missing(self) -> str | None:
        """See the base class."""
        return None if self._program else "install haproxy to compare"

    def version(self) -> str:
        """See the base class."""
        return _version([str(self._program), "-v"])

    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """See the base class."""
        tls = (
            f" ssl verify required ca-file {target.ca} sni str({HOST}) verifyhost {HOST}" if target.ca else ""
        )
        configuration = f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-request 30s
  timeout http-keep-alive 300s
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  http-request set-header Authorization "Bearer {UPSTREAM_TOKEN}"
  default_backend messages
backend messages
  server upstream 127.0.0.1:{target.port} pool-purge-delay 600s{tls}
"""
        path = directory / "haproxy.cfg"
        path.write_text(configuration)
        return Start([str(self._program), "-db", "-f", path])


class Go(Peer):
    """Our own small proxy on Go's net/http (``bench/go_proxy``), which does the same for a request as ccmproxy."""

    name = "go"

    def __init__(self, program: Path | str) -> None:
        """``program``: the executable, or why there is none."""
        self._program = program

    def missing(self) -> str | None:
        """See the base class."""
        return self._program if isinstance(self._program, str) else None

    def version(self) -> str:
        """See the base class."""
        return _version([shutil.which("go") or "/usr/local/go/bin/go", "version"])

    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """See the base class."""
        arguments: list[str | Path] = [
            Path(self._program),
            f"-listen=127.0.0.1:{port}",
            f"-upstream={target.url}",
            f"-token={CLIENT_TOKEN}",
            f"-key={UPSTREAM_TOKEN}",
        ]
        if target.ca:
            arguments.append(f"-ca={target.ca}")
        return Start(arguments)


class Relay(Peer):
    """Our own relay of bytes (``bench/relay.c``), which knows no protocol: the lower bound for WebSockets."""

    name = "relay"
    http = False
    websocket = True
    replaces_token = False

    def __init__(self, program: Path) -> None:
        self._program = program

    def missing(self) -> str | None:
        """See the base class."""
        return None

    def version(self) -> str:
        """See the base class."""
        return "ours, of this tree"

    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """See the base class; without TLS."""
        return Start([self._program, "--listen", str(port), "--port", str(target.port)])


class Ccmproxy(Peer):
    """ccmproxy in a typical configuration.

    One OAuth account (for WebSockets: one API key of Codex), one user, usage recorded if possible.
    """

    name = "ccmproxy"
    websocket = True

    def __init__(self, twistd_options: Sequence[str] = (), profiles: Path | None = None) -> None:
        """``twistd_options`` come before the service's name. ``profiles``: where to write cProfile statistics."""
        self._twistd_options = list(twistd_options)
        self._profiles = profiles
        self._twistd = Path(sys.executable).with_name("twistd")

    def missing(self) -> str | None:
        """See the base class."""
        if find_spec("ccmproxy") is None or find_spec("ccmproxy.root.tap") is None:
            return "ccmproxy's service cannot be imported"
        return None if self._twistd.exists() else f"there is no twistd beside {sys.executable}"

    def version(self) -> str:
        """See the base class; reported by the measured source tree, with the features that it leaves out."""
        code = "import ccmproxy, twisted; print(ccmproxy.__version__, 'on Twisted', twisted.__version__)"
        recording = "" if _records_usage() else ", usage is not recorded"
        return _version([sys.executable, "-c", code]) + recording

    def prepare(self, directory: Path, port: int, target: Target) -> Start:
        """See the base class."""
        credentials = directory / "credentials.json"
        credentials.touch(mode=0o600)
        if target.websocket:
            credentials.write_text(json.dumps({"OPENAI_API_KEY": UPSTREAM_TOKEN}))
            upstream: dict[str, object] = {"api_url": target.url}
        else:
            credentials.write_text(json.dumps({"claudeAiOauth": _LOGIN}))
            upstream = {
                "api_url": target.url,
                "token_url": f"{target.url}/v1/oauth/token",
                "usage_url": f"{target.url}/api/oauth/usage",
                "profile_url": f"{target.url}/api/oauth/profile",
            }
        if target.ca:
            upstream["ca_path"] = str(target.ca)
        service: dict[str, object] = {
            "type": "ocm" if target.websocket else "ccm",
            "listen": "127.0.0.1",
            "listen_port": port,
            "credential_path": str(credentials),
            "users": [{"name": "bench", "token": CLIENT_TOKEN}],
            "upstream": upstream,
        }
        if _records_usage():
            service["usages_path"] = str(directory / "usage.sqlite")
        configuration = directory / "ccmproxy.yaml"
        configuration.touch(mode=0o600)
        document = {"services": self._services(service, port), "log": {"level": "warn"}}
        configuration.write_text(json.dumps(document, indent=1))
        profile: list[str] = []
        if self._profiles is not None:
            self._profiles.mkdir(parents=True, exist_ok=True)
            path = self._profiles / f"{directory.name}.prof"
            profile = [f"--profile={path.resolve()}", "--profiler=cProfile", "--savestats"]
        options = ["--nodaemon", f"--pidfile={directory}/twistd.pid", f"--rundir={directory}"]
        twistd: list[str | Path] = [self._twistd, *options, *profile, *self._twistd_options]
        return Start([*twistd, "ccmproxy", "-c", configuration], {"PYTHONPATH": str(_ROOT)})

    def _services(self, service: dict[str, object], port: int) -> list[dict[str, object]]:
        """The entries of the configuration: ``service``, which listens on ``port``."""
        return [service]


class BorrowingCcmproxy(Ccmproxy):
    """Two instances in one process: the measured one borrows from the other, which has the account.

    Each request passes both, so the two subclasses are to be compared with each other.
    """

    websocket = False
    #: Whether the lender dials the borrower (a reverse connection), or the borrower the lender, by URL.
    reverse: ClassVar[bool]

    def _services(self, service: dict[str, object], port: int) -> list[dict[str, object]]:
        lender_port = free_port()
        url, lender_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{lender_port}"
        borrower: dict[str, object] = {
            "type": service["type"],
            "listen": "127.0.0.1",
            "listen_port": port,
            "credentials": [
                {"tag": "lender", "type": "external", "token": _LENT}
                | ({} if self.reverse else {"url": lender_url})
            ],
            "users": [{"name": "bench", "token": CLIENT_TOKEN, "allow_external_usage": True}],
        }
        own = {"tag": "own", "credential_path": service.pop("credential_path")}
        neighbour = {"tag": "neighbour", "type": "external", "token": _LENT, "url": url, "reverse": True}
        lender = service | {
            "listen_port": lender_port,
            "credentials": [own, neighbour] if self.reverse else [own],
            "users": [{"name": "neighbour", "token": _LENT, "credential": "own"}],
        }
        # The borrower listens last: by then, the lender is ready, and is about to dial.
        return [lender, borrower]


class CcmproxyByURL(BorrowingCcmproxy):
    """Borrows from an instance that it dials."""

    name = "ccmproxy-url"
    reverse = False


class CcmproxyReverse(BorrowingCcmproxy):
    """Borrows over a connection that the lender dialled."""

    name = "ccmproxy-reverse"
    reverse = True
    warm_up = 5.0


def _records_usage() -> bool:
    """Whether this tree's ccmproxy can record usage; imported late, because the other peers do not need it."""
    from ccmproxy.config.not_supported import NOT_SUPPORTED

    return not any(feature.path == "services[].usages_path" for feature in NOT_SUPPORTED)


def _version(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (result.stdout or result.stderr).strip().splitlines()
    return re.sub(r"\s+", " ", lines[-1] if command[1] == "-c" else lines[0]) if lines else "unknown"
