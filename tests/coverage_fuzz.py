"""Every parser of `parsers.py`, fuzzed by atheris, which looks for input that reaches new branches of our code.

    pip install atheris && python tests/coverage_fuzz.py [PARSER ...] [--minutes 1] [--keep FOLDER]

Whatever is neither read nor refused in one sentence is a crash: any other exception, or more than TIMEOUT seconds
or MEMORY megabytes. Crashes that leave our code at the same line count once; their input lands in FOLDER. No part of
the suite, which tries random damage (`test_fuzz_parsers.py`).
"""

import argparse
import importlib.util
import itertools
import json
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path

TIMEOUT, MEMORY, LONGEST = 10, 3000, 16384  # seconds, megabytes, bytes of input


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parsers", nargs="*", help="only these; all unless given")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each")
    parser.add_argument("--keep", type=Path, default=Path("crashes"), help="folder for the input of crashes")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed, run `pip install atheris` (Python 3.10 to 3.13)")
        return 0
    import atheris

    with atheris.instrument_imports(include=["mvgenvs"]):
        from parsers import PARSERS

    options.keep.mkdir(parents=True, exist_ok=True)
    found = 0
    print("| parser | inputs tried | branches reached | read | refused | crashes |\n|---|---:|---:|---:|---:|---:|")
    for name in options.parsers or PARSERS:
        found += in_a_process(name, options.minutes, options.keep.resolve())
    return int(found > 0)


def in_a_process(name: str, minutes: float, keep: Path) -> int:
    """Fuzzes one parser in a fork, which libFuzzer ends, and prints its line of the table. How many crashes differ."""
    log, told = keep / f"{slug(name)}.log", keep / f"{slug(name)}.json"
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if (child := os.fork()) == 0:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            fuzz(name, minutes, keep, Path(folder))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text(errors="replace")
    figures = json.loads(told.read_text()) if told.exists() else {"read": 0, "refused": 0, "crashes": []}
    told.unlink(missing_ok=True)
    crashes = figures["crashes"]
    if status:  # libFuzzer's own: too slow, or too much memory
        crashes.append((said.strip().splitlines() or ["no word"])[-1])
    tried, reached = (max(map(int, re.findall(word, said)), default=0) for word in (r"#(\d+)", r"\bcov: (\d+)"))
    print(f"| {name} | {tried} | {reached} | {figures['read']} | {figures['refused']} | {len(crashes)} |", flush=True)
    for crash in crashes:
        print(f"    {crash}", file=sys.stderr, flush=True)
    return len(crashes)


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def fuzz(name: str, minutes: float, keep: Path, folder: Path) -> None:
    """Fuzzes one parser in this process, which ends with it."""
    import atheris
    from parsers import HOSTILE, PARSERS, outcome

    seed, file, parse, check, _ = PARSERS[name]
    corpus, path = folder / "corpus", folder / "in" / file
    corpus.mkdir()
    (folder / "in").mkdir()
    (corpus / "whole").write_bytes(seed(folder / "in"))
    (folder / "words").write_text("".join(f'"{escaped(word)}"\n' for word in HOSTILE if 0 < len(word) < 65))
    became, tried, crashes = {"read": 0, "refused": 0}, itertools.count(), dict[str, str]()

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            became[outcome(lambda: parse(path), check)] += 1
        except Exception as error:
            where = last_line_of_ours(error)
            if where not in crashes:
                crashes[where] = f"{where} {type(error).__name__}: {str(error)[:200]}"
                (keep / f"{slug(name)}-{len(crashes)}").write_bytes(data)
        if next(tried) % 50 == 0:
            told = became | {"crashes": list(crashes.values())}
            (keep / f"{slug(name)}.json").write_text(json.dumps(told))

    limits = [f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}", "-seed=1"]
    limits += [f"-max_total_time={max(1, round(minutes * 60))}", "-print_final_stats=1"]
    places = [f"-artifact_prefix={keep}/{slug(name)}-", f"-dict={folder / 'words'}", str(corpus)]
    atheris.Setup(["fuzz", *limits, *places], one)
    atheris.Fuzz()


def escaped(word: str) -> str:
    """A word of libFuzzer's dictionaries."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def last_line_of_ours(error: BaseException) -> str:
    """Where an exception left our code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mvgenvs/" in frame.filename]
    if not frames:
        return "the check"
    return f"{frames[-1].filename.partition('/mvgenvs/')[2]}:{frames[-1].lineno}"


if __name__ == "__main__":
    sys.exit(main())
