"""What each idea is worth: trains small models without it, all for equally long, and compares them on the val split.

OUTPUT/<group>/<name>/run/          the training run
OUTPUT/<group>/<name>/eval/         its `eval.run`
OUTPUT/<group>/<name>/losses.json   its training losses on val sets, with the same sets and noise for all
OUTPUT/<group>.md, .json            the table
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from eval.report.records import write_json
from eval.studies.ablation_models import GROUPS
from eval.studies.ablation_runs import table, train_and_evaluate
from mvgenvs.cli import WORKERS, OneSentenceParser, explained_failures, run_script
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.data, args.output = args.data.resolve(), args.output.resolve()  # the scripts run in our folder
    group = GROUPS[args.group]
    output = args.output / args.group
    with explained_failures(args.output), OwnFolder(args.output) as own:
        kept = ("train.log", "eval.log", "losses.json")
        kept_of_models = [f"{args.group}/{model.folder}/{name}" for model in group.models for name in kept]
        own.claim([f"{args.group}.json", f"{args.group}.md", *kept_of_models])
        output.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // args.workers)
        with ThreadPoolExecutor(args.workers) as pool, tqdm(total=len(group.models), desc="models") as progress:
            done = pool.map(lambda model: train_and_evaluate(group, model, args.data, output, threads), group.models)
            for model, _ in zip(group.models, done, strict=True):
                progress.set_postfix_str(model.name)
                progress.update()
        text, report = table(group, output)
        write_json(args.output / f"{args.group}.json", report)
        write_text(args.output / f"{args.group}.md", text + "\n")
    print(text)


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m eval.ablations", description=__doc__.splitlines()[0])
    parse.add("--group", "which models", choices=GROUPS, default="denoiser")
    parse.add("--data", "data set", type=Path, required=True, metavar="DIR")
    parse.add("--workers", "models at a time; they share the processors", type=WORKERS, default=1, metavar="N")
    parse.add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


if __name__ == "__main__":
    run_script(main, shares_work=False)
