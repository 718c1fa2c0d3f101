"""Both wheels, in an environment with nothing else of ours."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from support.tokens import SECRET

ROOT = Path(__file__).parent.parent
TIMEOUT = 240


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd="/", timeout=TIMEOUT, capture_output=True, text=True,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(TIMEOUT)
def test_the_wheels_install_into_an_empty_environment_and_migrate_from_there(
    tmp_path: Path, database: str
) -> None:
    pip = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
    )
    run(*pip, ROOT, ROOT / "sdk")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *tmp_path.glob("*.whl"))
    run(python, "-c", "import rowcast_client")
    settings = {"DATABASE_URL": database, "ROWCAST_JWT_SECRET": SECRET}
    assert "ran 0001_init" in run(python.parent / "rowcast", "migrate", **settings)
    assert "up to date" in run(python.parent / "rowcast", "migrate", **settings)
