"""The containers: what their files name exists, and what can be run without an engine runs."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rowcast.settings import Settings, load, variables
from rowcast_client import Change, create_client
from support import databases
from support.server import Server
from support.tokens import SECRET

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
COMPOSE, DOCKERFILE, EXAMPLE = (
    (ROOT / name).read_text() for name in ("docker-compose.yml", "Dockerfile", ".env.example")
)
PASSWORD = "a-password"

Compose = Callable[[Mapping[str, str]], dict[str, dict[str, str]]]


def test_every_setting_that_the_files_name_exists() -> None:
    known = {variable for name in Settings.model_fields for variable in variables(name)}
    named = set(re.findall(r"\b(?:ROWCAST_\w+|DATABASE_URL|PORT)\b", COMPOSE + DOCKERFILE + EXAMPLE))
    assert {"DATABASE_URL", "PORT", "ROWCAST_JWT_SECRET", "ROWCAST_JWKS"} <= named
    assert named - known == set()


def test_the_example_names_what_compose_reads_and_leaves_empty_what_is_required() -> None:
    offered = set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) <= offered
    for variable in re.findall(r"\$\{(\w+):\?", COMPOSE):
        assert f"\n{variable}=\n" in EXAMPLE


def test_the_build_is_sent_all_that_it_copies() -> None:
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sorted({source for line in copied for source in line.split()}) == sorted(sent)
    assert [name for name in sent if not (ROOT / name).exists()] == []


async def test_the_image_finds_its_server_healthy_and_then_not(server: Server) -> None:
    found = re.search(r"^HEALTHCHECK .*? CMD (\[.*?\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)
    assert found is not None
    _, *arguments = json.loads(found[1])

    async def healthy() -> bool:
        environment = {**os.environ, "PORT": str(server.port), "http_proxy": "http://127.0.0.1:9"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=environment, stderr=DEVNULL
        )
        return await process.wait() == 0

    assert await healthy()
    await server.stop()
    assert not await healthy()


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """What Compose makes of the file, with these variables in ``.env``: each service's environment."""
    command = _installed()
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    offered = set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE))

    def read(values: Mapping[str, str]) -> dict[str, dict[str, str]]:
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        shown = subprocess.run(
            [*command, "--profile", "demo", "--profile", "tls", "config"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name not in offered},
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr
        return _environments(shown.stdout)

    return read


def _installed() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.call(
            [*command, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            return command
    pytest.skip("Compose is not installed: apt install docker-compose. It needs no engine for this")


def _environments(shown: str) -> dict[str, dict[str, str]]:
    """Read what Compose prints: two spaces for each level, one entry a line."""
    found: dict[str, dict[str, str]] = {}
    section = service = block = ""
    for line in shown.splitlines():
        depth = len(line) - len(line.lstrip())
        name, _, value = line.strip().partition(":")
        if depth == 0:
            section = name
        elif section == "services" and depth == 2:
            service, found[name] = name, {}
        elif section == "services" and depth == 4:
            block = name
        elif section == "services" and depth == 6 and block == "environment":
            found[service][name] = value.strip().strip("'\"")
    return found


@pytest.mark.parametrize(
    "keys", [{"ROWCAST_JWT_SECRET": SECRET}, {"ROWCAST_JWKS": "https://auth.example/jwks.json"}]
)
def test_a_secret_or_a_key_set_is_enough(
    compose: Compose, keys: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = compose({"POSTGRES_PASSWORD": PASSWORD, "PORT": "4444", **keys})
    assert set(services) == {"postgres", "rowcast", "demo", "caddy"}
    monkeypatch.chdir(ROOT / "docs")  # where no .env file is
    for name, value in services["rowcast"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.dsn == f"postgresql://postgres:{PASSWORD}@postgres:5432/app"
    assert settings.port == 4000
    assert (settings.jwt_secrets, settings.jwks is None) == (
        ((SECRET,), True) if "ROWCAST_JWT_SECRET" in keys else ((), False)
    )


async def test_the_demonstration_writes_to_a_table_that_clients_may_read(
    migrated: str, serve: Callable[..., Awaitable[Server]]
) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed: apt install postgresql-client")
    (entrypoint,) = re.findall(r'entrypoint: (\["psql".*\])', COMPOSE)
    _, *arguments = [
        part.replace("/demo.sql", str(ROOT / "deploy/demo.sql")) for part in json.loads(entrypoint)
    ]
    # All of a schema can be subscribed to once something can be read in it.
    databases.execute(
        migrated,
        "create table other (id int primary key); grant select on other to anon;"
        "alter publication supabase_realtime add table other",
    )
    server = await serve(migrated)
    parts = urlsplit(migrated)
    environment = {
        "PATH": os.environ["PATH"],
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port),
        "PGUSER": str(parts.username),
        "PGPASSWORD": str(parts.password),
        "PGDATABASE": parts.path.removeprefix("/"),
    }
    changes: asyncio.Queue[Change] = asyncio.Queue(100)
    async with create_client(server.url, server.token("anon")) as client:
        await client.channel("all").on("postgres_changes", changes.put, schema="public").subscribe()
        process = await asyncio.create_subprocess_exec(psql, *arguments, env=environment, stdout=DEVNULL)
        try:
            async with asyncio.timeout(60):
                kinds = [(await changes.get()).eventType for _ in range(3)]
        finally:
            process.terminate()
            await process.wait()
    assert sorted(kinds) == ["INSERT", "INSERT", "UPDATE"]
