"""What lies in the folder of the examples is what others, and documents, have."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "tests" / "clients" / "js" / "node_modules" / "supabase-js"


def test_supabase_js_is_the_release_that_the_tests_are_made_with() -> None:
    shared = ROOT / "examples" / "shared"
    assert PACKAGE.exists(), "Install the official clients once with: make clients"
    for ours, theirs in (("supabase.js", "dist/umd/supabase.js"), ("supabase.LICENSE", "LICENSE")):
        assert (shared / ours).read_bytes() == (PACKAGE / theirs).read_bytes(), f"copy {theirs} anew"


def test_the_pages_name_no_other_host() -> None:
    for file in (ROOT / "examples").rglob("*"):
        if file.suffix in (".html", ".css", ".js") and file.name != "supabase.js":
            assert "//" not in file.read_text().replace("// ", ""), file


def test_the_policies_of_the_document_are_those_of_the_example() -> None:
    text = (ROOT / "docs" / "private-messages.md").read_text()
    (printed,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    run = (ROOT / "examples" / "messages" / "setup.sql").read_text()
    assert [policy.strip() for policy in re.findall(r"create policy.*?;", run, re.DOTALL)] == [
        policy.strip() for policy in re.findall(r"create policy.*?;", printed, re.DOTALL)
    ]
