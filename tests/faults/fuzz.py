"""Coverage-guided fuzzing of a reader: `pip install atheris`, then `python tests/faults/fuzz.py recipe.yaml -max_total_time=600`.

What follows the reader's name are options of libFuzzer. It begins with a good file and the corpus; what it finds lies in the
folder that it names, and belongs, made small, into corpus/<reader>/, where it is a test. atheris has wheels for Linux only, so
no extra of the package asks for it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "support")]

with atheris.instrument_imports(include=["sbv2bench", "reference_trainer", "yaml", "json"]):
    from faults.readers import READERS


def main() -> None:
    """Fuzz until a limit of libFuzzer's, or the first fault."""
    name = sys.argv[1]
    seeds = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    (seeds / "good").write_bytes(READERS[name].good())
    print(f"{name}: {seeds}")

    def refuse(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            READERS[name].refuses_in_words(content, Path(folder))

    known = [str(HERE / "corpus" / name)] if (HERE / "corpus" / name).is_dir() else []
    atheris.Setup([sys.argv[0], f"-artifact_prefix={seeds}/", *sys.argv[2:], str(seeds), *known], refuse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
