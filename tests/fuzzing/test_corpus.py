"""Every input that the fuzzer found worth keeping still does no harm."""

import random
from pathlib import Path

import pytest
from fuzzing.mutation import mutate
from fuzzing.targets import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_inputs_do_no_harm(name: str) -> None:
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    for path in paths:
        try:
            TARGETS[name](path.read_bytes())
        except BaseException as error:
            error.add_note(f"The input is {path}")
            raise


def test_the_corpus_stays_small_and_has_no_folder_that_no_harness_reads() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_bounded_and_depend_on_the_seed_alone(name: str) -> None:
    def bytewise(data: bytes, size: int) -> bytes:
        return data[::-1][:size]

    for path in sorted(Path(CORPUS / name).iterdir())[:10]:
        data = path.read_bytes()
        for seed in random.Random(name).sample(range(10**6), 20):
            changed = mutate(data, 500, seed, bytewise)
            assert len(changed) <= 500
            assert changed == mutate(data, 500, seed, bytewise)
