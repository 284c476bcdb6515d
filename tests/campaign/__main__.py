"""The whole campaign, and its table: `python tests/campaign [JOB ...] [--kills N]`; minutes on one core."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaign.jobs import jobs, large_jobs, with_workers
from campaign.trials import DAMAGES, Trials

MEBIBYTES = {"1,000 views, read": 60, "1,000 views, scored": 200}  # of 32 pixels, beyond what the imports take


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", help="only these; all unless given")
    parser.add_argument("--kills", type=int, default=10, help="of each job; a third of them before changes of files")
    parser.add_argument("--sample", action="store_true", help="a few faults of three jobs, as the tests try them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["kills", "disks", "others"], choices=["kills", "disks", "others"])
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="campaign-"))
    table: dict[str, Counter[str]] = {}
    problems = []
    begin = time.perf_counter()
    for name, job in jobs(work).items():
        if (options.jobs and name not in options.jobs) or (options.sample and name not in SAMPLES):
            continue
        trials = Trials(name, job, work, options.seed)
        SAMPLES[name](trials) if options.sample else campaign(trials, options.kills, options.only)
        table[name], problems = trials.counts, problems + trials.problems
        print(f"{name}: {dict(trials.counts)}, {len(trials.problems)} problems", flush=True)
        shutil.rmtree(trials.work, ignore_errors=True)
    for name, job in (
        {} if options.sample or (options.jobs and "views" not in options.jobs) else large_jobs(work).items()
    ):
        trials = Trials(name, job, work, options.seed)
        trials.little_memory(MEBIBYTES[name])
        table[name], problems = trials.counts, problems + trials.problems
    shutil.rmtree(work)
    show(table)
    print(f"{time.perf_counter() - begin:.0f} s, {len(problems)} problems")
    return 1 if problems else 0


def campaign(trials: Trials, kills: int, only: list[str]) -> None:
    """Everything that there is to try on a job."""
    if "kills" in only:
        trials.kills(kills - kills // 3, at_changes=False)
        trials.kills(kills // 3, at_changes=True)
    if "disks" in only:
        trials.full_from_changes([0, 1, 2, 3, 5, 8, 13, 21])
        trials.full_for_files([0, 300, 3000, 30000])
        trials.full_disks(6)
        trials.read_only()
    if "others" in only:
        trials.two_runs()
        trials.clock()
        if trials.name == "train":
            trials.damaged_checkpoints(DAMAGES)
            trials.killed_worker(with_workers)


def sample_of_data(trials: Trials) -> None:
    trials.kills(1, at_changes=False)
    trials.kills(1, at_changes=True)
    trials.full_from_changes([5])


def sample_of_views(trials: Trials) -> None:
    trials.kills(1, at_changes=True)
    trials.full_for_files([3000])


def sample_of_training(trials: Trials) -> None:
    trials.damaged_checkpoints({"NaN weights": DAMAGES["NaN weights"]})


SAMPLES = {"train": sample_of_training, "data": sample_of_data, "infer": sample_of_views}


def show(table: dict[str, Counter[str]]) -> None:
    """As in docs/reliability.md."""
    columns = list(dict.fromkeys(key for counts in table.values() for key in counts if "," not in key))
    print("| | " + " | ".join(columns) + " |\n|---" + "|---:" * len(columns) + "|")
    for name, counts in [*table.items(), ("together", sum(table.values(), Counter()))]:
        print(f"| {name} | " + " | ".join(str(counts[key] or "") for key in columns) + " |")


if __name__ == "__main__":
    sys.exit(main())
