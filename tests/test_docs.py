"""What the documents state is what the code has."""

import json
import re
from pathlib import Path

import pytest

from rowcast.settings import Settings, describe

ROOT = Path(__file__).parent.parent


def test_the_versions_of_the_official_clients_are_those_that_are_tested() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    packages = json.loads((ROOT / "tests" / "clients" / "js" / "package.json").read_text())["dependencies"]
    javascript = {
        spec.rpartition("@")[2] for name, spec in packages.items() if name.startswith("supabase-js")
    }
    assert set(re.findall(r"^\| `@supabase/supabase-js` \| ([\d.]+)", text, re.MULTILINE)) == javascript
    python = re.findall(
        r"^realtime==(\S+)", (ROOT / "requirements" / "clients.txt").read_text(), re.MULTILINE
    )
    assert re.findall(r"^\| `realtime` \(Python\) \| ([\d.]+)", text, re.MULTILINE) == python


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    settings = Settings.model_construct(database_url=None, jwt_secret=None)
    names = [setting.variable for setting in describe(settings, {})]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_links_between_the_documents_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_containers_are_given_all_settings_that_are_required() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    for name in ("DATABASE_URL", "ROWCAST_JWT_SECRET"):
        assert f"      {name}: " in compose
    for variable in re.findall(r"\$\{(\w+):\?", compose):
        assert f"\n{variable}=\n" in example
