"""What the documents state is what the code has."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rowcast.cli.main import app
from rowcast.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "sdk" / "README.md"])


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


def test_what_is_generated_is_as_the_code_has_it() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_says_in_a_sentence_what_it_is() -> None:
    told = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert {name: text for name, text in told.items() if not (text[:1].isupper() and text[-1] == ".")} == {}


def test_every_command_and_option_that_a_document_names_exists() -> None:
    group: Any = get_command(app)
    options = {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }
    spoken = re.compile(r"(?:^|[`(|]|exec rowcast )rowcast ([a-z]+)((?: +[^`\n#|]*)?)", re.MULTILINE)
    named = [(page.name, *match.groups()) for page in PAGES for match in spoken.finditer(page.read_text())]
    assert {"serve", "watch", "token", "migrate"} <= {command for _, command, _ in named}
    assert [found for found in named if found[1] not in options] == []
    assert [
        (page, command, option)
        for page, command, rest in named
        for option in re.findall(r"(?<=\s)\[?(--[a-z-]+)", rest)
        if option not in options[command]
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_documents_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
