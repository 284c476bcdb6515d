"""How many processes a run has. Launchers may start one process although several were asked for, or several that never
communicate: scripts that share work join the processes here, others refuse them. Imports torch only when needed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from mvgenvs.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and of some MPIs
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
PATIENCE = 10.0  # seconds


def num_launched() -> int:
    """How many processes the launcher has started in all, by its environment variables; 1 without a launcher."""
    return _variable(_SIZES, 1)


def join_processes(device: str = "auto", timeout: timedelta | None = None) -> PartialState:
    """Joins the processes that `torchrun` or `accelerate launch` has started; if there are several, stderr says so.

    `device` is auto, cpu or cuda; auto is the GPU if there is one. The result is accelerate's state, which an
    `Accelerator` made afterwards shares. `timeout` is how long one may wait for another. Raises `UserError` if several
    processes were asked for and do not come together, or there is no such device.
    """
    if _one_of_several():
        raise UserError(
            "accelerate launch has started one process where several were asked for, as it does on a CPU: "
            "use torchrun --nproc_per_node N, which takes the same arguments after it"
        )
    import torch
    from accelerate import PartialState

    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise UserError("there is no usable GPU here: leave out --device cuda")
    # Without `cpu`, accelerate lets each process that torchrun has started on a CPU believe that it is alone.
    state = PartialState(cpu=device == "cpu" or not gpu, **({} if timeout is None else {"timeout": timeout}))
    if state.num_processes != num_launched():
        raise UserError(f"{num_launched()} processes were started, but {state.num_processes} came together")
    if state.num_processes > 1 and state.is_main_process:
        print(f"{state.num_processes} processes share the work", file=sys.stderr, flush=True)
    return state


def leave_processes() -> None:
    """To be called at the end by a process that has joined: closes the communication."""
    from accelerate import PartialState

    if PartialState().num_processes > 1:
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def on_main(state: PartialState, action: Callable[[], object]) -> None:
    """Runs `action` in the main process while the others wait. On `UserError` all stop, and one says why."""
    problem: list[str | None] = [None]
    if state.is_main_process:
        try:
            action()
        except UserError as error:
            problem = [str(error)]
    if state.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(problem)
    if problem[0] is not None:
        _stop(problem[0], state.is_main_process)


def refuse_several() -> None:
    """For scripts that do not share work: raises `UserError` if a launcher was asked for more than one process."""
    if num_launched() > 1 or _one_of_several():
        several = f"{num_launched()} processes" if num_launched() > 1 else "several processes"
        _stop(f"this does not share its work, and {several} were asked for: start it with python alone", _rank() == 0)


def _stop(sentence: str, is_main: bool) -> None:
    if is_main:
        raise UserError(sentence)
    time.sleep(PATIENCE)  # launchers end all processes with the first one, which should be the one that speaks
    sys.exit(2)


def _one_of_several() -> bool:
    """Whether `accelerate launch` was asked for several processes on a CPU, and started one without telling it."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    return launched and _variable((*_SIZES, *_RANKS, "LOCAL_RANK"), -1) == -1


def _rank() -> int:
    return _variable(_RANKS, 0)


def _variable(names: tuple[str, ...], default: int) -> int:
    """The first of these environment variables that is set."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)
