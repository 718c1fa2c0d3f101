"""Fuzz with atheris: ``python -m fuzzing [harness [seconds [options of libFuzzer]]]``; alone, all of them.

``python -m fuzzing keep [harness]`` adds to the kept corpus what was found that reaches further.
"""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from fuzzing.reach import GUIDES, worth_keeping

ROOT: Final = Path(__file__).parents[1]
CORPUS: Final = ROOT / "fuzzing" / "corpus"
#: What was found, and what broke something.
FOUND: Final = ROOT / "build" / "fuzzing"
_MAX_LENGTH: Final = 8192
#: What is larger is not kept.
_MAX_KEPT: Final = 2048
_SECONDS: Final = "60"


def main(arguments: list[str]) -> int:
    """The exit code: how many harnesses broke."""
    names = sorted(path.name for path in CORPUS.iterdir())
    keep = arguments[:1] == ["keep"]
    arguments = arguments[keep:]
    if arguments and arguments[0] in names:
        if keep:
            _keep(arguments[0])
        else:
            _fuzz(arguments[0], arguments[1:])
        return 0
    # A process each, since libFuzzer ends its own.
    command = [sys.executable, "-m", "fuzzing", *["keep"] * keep]
    broken = [name for name in names if subprocess.run([*command, name, *arguments], cwd=ROOT).returncode]
    print(f"Broken: {', '.join(broken)}" if broken else "Nothing broke")
    return len(broken)


def _fuzz(name: str, options: list[str]) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(GUIDES)):
        targets = importlib.import_module("fuzzing.targets")
    mutation = importlib.import_module("fuzzing.mutation")
    seconds = options.pop(0) if options and options[0].isdecimal() else _SECONDS
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    defaults = [
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_LENGTH}",
        f"-dict={ROOT / 'fuzzing' / 'tokens.dict'}",
        f"-artifact_prefix={FOUND}/{name}-",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup(
        [sys.argv[0], *defaults, *options, str(found), str(CORPUS / name)],
        targets.TARGETS[name],
        custom_mutator=lambda data, size, seed: mutation.mutate(data, size, seed, atheris.Mutate),
    )
    atheris.Fuzz()


def _keep(name: str) -> None:
    targets = importlib.import_module("fuzzing.targets")
    corpus = CORPUS / name
    kept = [path.read_bytes() for path in sorted(corpus.iterdir())]
    found = [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]
    small = [data for data in found if len(data) <= _MAX_KEPT]
    for data in worth_keeping(targets.TARGETS[name], kept, small):
        (corpus / hashlib.sha1(data).hexdigest()[:12]).write_bytes(data)
    print(f"{name}: {len(kept)} were kept, {len(list(corpus.iterdir()))} are")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
