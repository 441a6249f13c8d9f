"""nginx in front of ccmproxy, as etc/nginx.conf.example has it."""

from __future__ import annotations

import shutil

from OpenSSL import crypto

from tests.interop.federation import PORT, Machine
from tests.source import ROOT
from tests.transports.certificates import make_authority


def start_nginx(machine: Machine, name: str, timeout: str) -> str:
    """Start nginx on ``machine``, for https under the prefix ``/team``; the path of its authority's certificate.

    What the example says is used as it is, but for names of files, the prefix, and ``timeout``.
    """
    example = (ROOT / "etc" / "nginx.conf.example").read_text(encoding="utf-8")
    authority = make_authority()
    options = authority.server_options(name)
    assert options.certificate is not None and options.privateKey is not None
    certificate, key = machine.folder / "certificate.pem", machine.folder / "key.pem"
    certificate.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, options.certificate))
    key.write_bytes(crypto.dump_privatekey(crypto.FILETYPE_PEM, options.privateKey))
    for old, new in (
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{PORT};"),
        ("/etc/nginx/tls/ccmproxy.example.org.pem", str(certificate)),
        ("/etc/nginx/tls/ccmproxy.example.org.key", str(key)),
        ("location / {", "location /team/ {"),
        ("proxy_pass http://ccmproxy;", "proxy_pass http://ccmproxy/;"),
        ("_timeout 660s", f"_timeout {timeout}"),
    ):
        assert old in example, old
        example = example.replace(old, new)
    folders = "\n".join(
        f"    {each}_temp_path {machine.folder}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = machine.folder / "nginx.conf"
    file.write_text(
        "daemon off;\n"
        "master_process off;\n"
        f"pid {machine.folder}/nginx.pid;\n"
        "error_log stderr info;\n"
        "events {}\n"
        f"http {{\n    access_log off;\n{folders}\n{example}}}\n"
    )
    program = shutil.which("nginx")
    assert program is not None
    machine.start("nginx", [program, "-e", "stderr", "-p", str(machine.folder), "-c", str(file)])
    return authority.write(machine.folder / "authority.pem")
