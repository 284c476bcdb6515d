"""What each idea, or each system, is worth: trains small models, all for equally long, and compares them on val.

OUTPUT/<group>/<name>/run/          the training run
OUTPUT/<group>/<name>/eval/         its `eval.run`
OUTPUT/<group>/<name>/losses.json   its training losses on val sets, with the same sets and noise for all
OUTPUT/<group>/<name>/costs.json    parameters, steps and seconds per view, if the table shows them
OUTPUT/<group>/renderings/          of the training sets, if models share them
OUTPUT/<group>.md, .json            the table
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from eval.report.records import write_json
from eval.studies.ablation_models import GROUPS
from eval.studies.ablation_runs import Setup, table, train_and_evaluate
from mvgenvs.cli import WORKERS, OneSentenceParser, explained_failures, number, run_script, whole_number
from mvgenvs.files import write_text
from mvgenvs.folders import OwnFolder


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.data, args.output = args.data.resolve(), args.output.resolve()  # the scripts run in our folder
    train_data = args.data if args.train_data is None else args.train_data.resolve()
    group = GROUPS[args.group]
    output = args.output / args.group
    with explained_failures(args.output), OwnFolder(args.output) as own:
        kept = ("train.log", "eval.log", "losses.json", "costs.json")
        kept_of_models = [f"{args.group}/{model.folder}/{name}" for model in group.models for name in kept]
        own.claim([f"{args.group}.json", f"{args.group}.md", *kept_of_models])
        output.mkdir(parents=True, exist_ok=True)
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
        setup = Setup(args.data, train_data, output, threads, args.minutes, args.num_objects)
        with ThreadPoolExecutor(args.workers) as pool, tqdm(total=len(group.models), desc="models") as progress:
            rows = [pool.submit(train_and_evaluate, group, model, setup) for model in group.models]
            try:
                for model, row in zip(group.models, rows, strict=True):
                    wait([row])
                    progress.set_postfix_str(model.name)
                    progress.update()
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        failed = [error for row in rows if (error := row.exception()) is not None]
        if failed:  # what the other rows have made is kept
            raise failed[0]
        text, report = table(group, output)
        write_json(args.output / f"{args.group}.json", report)
        write_text(args.output / f"{args.group}.md", text + "\n")
    print(text)


def parser() -> OneSentenceParser:
    parse = OneSentenceParser("python -m eval.ablations", description=__doc__.splitlines()[0])
    parse.add("--group", "which models", choices=GROUPS, default="denoiser")
    parse.add("--data", "data set", type=Path, required=True, metavar="DIR")
    parse.add("--train-data", "data set of the training, if another", type=Path, metavar="DIR")
    parse.add("--minutes", "of each training, instead of its configuration's steps", type=number(float, 0), default=0.0)
    parse.add("--num-objects", "only the first N val objects", type=whole_number(1), metavar="N")
    parse.add("--threads", "of each model (default: the processors, shared)", type=whole_number(1), metavar="N")
    parse.add("--workers", "models at a time; they share the processors", type=WORKERS, default=1, metavar="N")
    parse.add("--output", "folder of the results; resumes what is there", type=Path, required=True, metavar="DIR")
    return parse


if __name__ == "__main__":
    run_script(main, shares_work=False)
