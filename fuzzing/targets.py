"""Every harness by its name, which is that of its folder in the corpus.

A harness is a plain function of bytes: it returns for whatever it is given, or raises what it found.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fuzzing.conversations import fuzz_conversations
from fuzzing.filters import fuzz_filters
from fuzzing.frames import fuzz_frames
from fuzzing.joins import fuzz_joins
from fuzzing.positions import fuzz_positions
from fuzzing.rows import fuzz_rows
from fuzzing.sockets import fuzz_sockets

CORPUS: Final = Path(__file__).parent / "corpus"
TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "frames": fuzz_frames,
    "conversations": fuzz_conversations,
    "joins": fuzz_joins,
    "filters": fuzz_filters,
    "sockets": fuzz_sockets,
    "rows": fuzz_rows,
    "positions": fuzz_positions,
}
