"""Keys that tests sign tokens with, one of every kind, and the key sets that they are published in."""

import asyncio
import contextlib
import functools
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from support.serving import PATIENCE

ALGORITHMS = [f"{family}{size}" for family in ("HS", "RS", "ES") for size in (256, 384, 512)]
ALGORITHMS += ["EdDSA", "Ed25519", "Ed448"]
_JWS = jwt.PyJWS()
for _name in ("Ed25519", "Ed448"):
    _JWS.register_algorithm(_name, OKPAlgorithm())


@dataclass(frozen=True)
class Signer:
    """A key with its algorithm: it signs, and ``jwk`` is what a key set has of it."""

    algorithm: str
    private: Any
    jwk: dict[str, Any]

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token with these claims, and ``header`` instead of the key's own ``kid``."""
        names = header or {"kid": self.jwk["kid"]}
        return _JWS.encode(json.dumps(claims).encode(), self.private, self.algorithm, names)

    def token(self, role: str = "anon", **claims: Any) -> str:
        """A token that is good for an hour."""
        return self.sign({"role": role, "exp": int(time.time()) + 3600, **claims})


def make_signer(algorithm: str, kid: str = "k1") -> Signer:
    """A new key."""
    private, jwk = _make(algorithm)
    return Signer(algorithm, private, {**jwk, "kid": kid})


#: The same key for the same arguments: some take long to make.
signer = functools.cache(make_signer)


def key_set(*signers: Signer) -> str:
    """The keys as they are published."""
    return json.dumps({"keys": [one.jwk for one in signers]})


def _make(algorithm: str) -> tuple[Any, dict[str, Any]]:
    match algorithm:
        case "HS256" | "HS384" | "HS512":
            secret = secrets.token_bytes(64)
            return secret, HMACAlgorithm.to_jwk(secret, as_dict=True)
        case "RS256" | "RS384" | "RS512":
            key = rsa.generate_private_key(65537, 2048)
            return key, RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case "EdDSA" | "Ed25519":
            edwards = ed25519.Ed25519PrivateKey.generate()
            return edwards, OKPAlgorithm.to_jwk(edwards.public_key(), as_dict=True)
        case "Ed448":
            longer = ed448.Ed448PrivateKey.generate()
            return longer, OKPAlgorithm.to_jwk(longer.public_key(), as_dict=True)
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    elliptic = ec.generate_private_key(curves[algorithm])
    return elliptic, ECAlgorithm.to_jwk(elliptic.public_key(), as_dict=True)


@dataclass
class Published:
    """A page on a server of this process, whose answer the test sets. ``requests`` has what it was asked."""

    answer: bytes = b""
    port: int = 0
    requests: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    def publish(self, body: str | bytes, status: str = "200 OK", *headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(data)}", "connection: close", *headers, "", ""]
        self.answer = "\r\n".join(lines).encode() + data

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    async def asked(self) -> str:
        return await asyncio.wait_for(self.requests.get(), PATIENCE)


@contextlib.asynccontextmanager
async def publishing() -> AsyncIterator[Published]:
    """Serve a page. What has an empty answer is kept waiting."""
    page = Published()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            page.requests.put_nowait(request.decode())
            writer.write(page.answer)
            await (writer.drain() if page.answer else reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    page.port = server.sockets[0].getsockname()[1]
    try:
        yield page
    finally:
        server.close()
