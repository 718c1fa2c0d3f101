"""What the examples bring of others is what it says to be."""

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
