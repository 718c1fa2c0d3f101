"""Reverse proxies, as docs/deploy.md has them: the real nginx and the real Caddy, before a server of a test.

Paths, names and ports of the document are replaced by the test's own, and nothing else of it.
"""

import asyncio
import datetime
import ipaddress
import re
import shutil
import signal
import ssl
from asyncio.subprocess import DEVNULL, STDOUT, Process
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rowcast.dev.postgres import free_port

ROOT = Path(__file__).parents[2]
_TIMEOUT = 30.0
_POLL = 0.02


def printed(page: str, language: str, first: str) -> str:
    """The block of a document in this language whose text begins so. There must be one."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if block.startswith(first)]
    return str(block)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for ``localhost`` that signed itself: for servers, and for those who are to trust it."""

    chain: Path
    key: Path

    def trusted(self) -> ssl.SSLContext:
        """A client's context that trusts this one, and none else."""
        return ssl.create_default_context(cafile=self.chain)


def make_certificate(folder: Path) -> Certificate:
    """A new certificate, good from a day ago until a day from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "fullchain.pem", folder / "privkey.pem")
    made.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return made


class Gateway:
    """A proxy on a free port of localhost, with TLS, before the server at ``upstream``, a port."""

    program: ClassVar[str]

    def __init__(self, folder: Path, certificate: Certificate, upstream: int) -> None:
        self.folder, self.certificate, self.upstream = folder, certificate, upstream
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """What a client's ``create_client`` is given."""
        return f"https://localhost:{self.port}"

    @property
    def websocket(self) -> str:
        """The address of the socket, without its query."""
        return f"wss://localhost:{self.port}/realtime/v1/websocket"

    def configure(self, text: str) -> None:
        """Write the configuration that the next start, or reload, takes."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command line that runs it in the foreground."""
        raise NotImplementedError

    async def reload(self) -> None:
        """Have it take its configuration anew, as its users do, and return when it was told."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._process = await self._spawn(*self.command())
        async with asyncio.timeout(_TIMEOUT):
            while not await self._accepts():
                assert self._process.returncode is None, f"{self.program} ended: {self.logged()}"
                await asyncio.sleep(_POLL)

    async def stop(self) -> None:
        """Stop it at once: its sockets are cut."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_TIMEOUT):
                await self._process.wait()

    def logged(self) -> str:
        """All that it has written to its logs."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    async def _spawn(self, *command: str) -> Process:
        with (self.folder / "output.log").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                cwd=self.folder,
                env=self._environment(),
            )

    async def _run(self, *command: str) -> None:
        process = await self._spawn(*command)
        async with asyncio.timeout(_TIMEOUT):
            assert await process.wait() == 0, self.logged()

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


class Nginx(Gateway):
    """nginx with the block for ``/etc/nginx/conf.d`` of docs/deploy.md."""

    program = "nginx"

    def __init__(self, folder: Path, certificate: Certificate, upstream: int) -> None:
        super().__init__(folder, certificate, upstream)
        #: The port that speaks HTTP without TLS.
        self.plain = free_port()

    @staticmethod
    def document() -> str:
        return printed("docs/deploy.md", "nginx", "# /etc/nginx/conf.d/")

    def configure(self, text: str) -> None:
        for pattern, own in (
            (r"listen \[::\]:\d+( ssl)?;", ""),
            (r"listen 80;", f"listen 127.0.0.1:{self.plain};"),
            (r"listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            (r"server_name \S+;", "server_name localhost;"),
            (r"/etc/\S+/fullchain.pem", str(self.certificate.chain)),
            (r"/etc/\S+/privkey.pem", str(self.certificate.key)),
            (r"/var/log/nginx/", f"{self.folder}/"),
            (r"127\.0\.0\.1:4000\b", f"127.0.0.1:{self.upstream}"),
        ):
            text, count = re.subn(pattern, own, text)
            assert count, f"docs/deploy.md has no {pattern}"
        folders = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/pid; error_log {self.folder}/main.log info; worker_processes 1;\n"
            f"events {{}}\nhttp {{\n{folders}access_log {self.folder}/other.log;\n{text}}}\n"
        )

    def command(self) -> list[str]:
        return [_found("nginx"), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "main.log")]

    async def reload(self) -> None:
        await self._run(*self.command(), "-s", "reload")


class Caddy(Gateway):
    """Caddy with the file of docs/deploy.md, and the test's certificate instead of one of its own."""

    program = "caddy"

    def __init__(self, folder: Path, certificate: Certificate, upstream: int) -> None:
        super().__init__(folder, certificate, upstream)
        self._orders = free_port()

    @staticmethod
    def document() -> str:
        return printed("docs/deploy.md", "caddyfile", "{\n")

    def configure(self, text: str) -> None:
        site = "{$DOMAIN:localhost} {\n"
        assert site in text
        tls = f"tls {self.certificate.chain} {self.certificate.key}"
        text = text.replace(site, f"{{$DOMAIN:localhost}} {{\n\t{tls}\n")
        # Its own port for orders, and none for plain HTTP.
        own = f"{{\n\tadmin 127.0.0.1:{self._orders}\n\tauto_https disable_redirects\n"
        (self.folder / "Caddyfile").write_text(own + text.removeprefix("{\n"))

    def _environment(self) -> dict[str, str]:
        own = {"DOMAIN": f"https://localhost:{self.port}", "UPSTREAM": f"127.0.0.1:{self.upstream}"}
        return super()._environment() | own

    def command(self) -> list[str]:
        return [_found("caddy"), "run", *self._file()]

    async def reload(self) -> None:
        await self._run(_found("caddy"), "reload", *self._file(), "--address", f"127.0.0.1:{self._orders}")

    def _file(self) -> list[str]:
        return ["--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"]


def _found(program: str) -> str:
    """Where it is, also when the PATH leaves out what is for administrators; else the test is skipped."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed: apt install {program}")
    return found
