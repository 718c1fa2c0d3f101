"""The pages that a server has beside its sockets."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from rowcast.web.app import create_app
from support.serving import ListFeed, make_app

pytestmark = pytest.mark.anyio


def asking(app: Starlette) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", follow_redirects=True)


@pytest.fixture
def browser(tmp_path: Path) -> httpx.AsyncClient:
    """Asks an app for the pages of a folder that lies in another one."""
    folder = tmp_path / "pages"
    (folder / "chat").mkdir(parents=True)
    (folder / "chat" / "index.html").write_text("<p>chat")
    (folder / "chat" / "chat.js").write_text("say()")
    (folder / ".env").write_text("ROWCAST_JWT_SECRET=")
    (tmp_path / "beside.txt").write_text("beside")
    (folder / "link.txt").symlink_to(tmp_path / "beside.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    return asking(create_app(make_app(ListFeed()).state.services, folder))


async def test_a_folder_is_served_with_what_it_may_do(browser: httpx.AsyncClient) -> None:
    for path, kind, text in (
        ("/pages/chat/", "text/html", "<p>chat"),
        ("/pages/chat", "text/html", "<p>chat"),
        ("/pages/chat/chat.js", "text/javascript", "say()"),
    ):
        found = await browser.get(path)
        assert (found.status_code, found.text) == (200, text)
        assert found.headers["content-type"].startswith(kind)
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'; connect-src 'self';" in found.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["", "nowhere", ".env", "chat/../.env", "..%2fbeside.txt", "link.txt", "loop.txt", "%00"]
)
async def test_what_is_hidden_or_beside_the_folder_is_not_served(
    browser: httpx.AsyncClient, path: str
) -> None:
    assert (await browser.get(f"/pages/{path}")).status_code == 404


async def test_there_are_no_pages_unless_a_folder_is_given() -> None:
    assert (await asking(make_app(ListFeed())).get("/pages/chat/")).status_code == 404
