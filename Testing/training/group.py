"""Functions run as the processes of one training, as torchrun runs them, but forked from one that has torch loaded."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

#: What a process that hangs may take before the test fails.
_LONGEST_S = 400

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["TransferSegLib.training.base", "TransferSegLib.finetuning.finetune"])


def run_group(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of a module in each of so many processes; return what each returned, or its exit code.

    An error is returned as its text. A process that was killed has a negative exit code.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, started = [], []
    for rank in range(count):
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_child, args=(rank, count, port, theirs, work, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        started.append(process)
    results = []
    for pipe, process in zip(pipes, started, strict=True):
        try:
            result = pipe.recv() if pipe.poll(_LONGEST_S) else "hangs"
        except EOFError:
            result = None
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        results.append(process.exitcode if result is None else result)
    return results


def _child(rank: int, count: int, port: int, pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    torch.set_num_threads(1)
    try:
        result = work(*arguments)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    pipe.send(result)
    pipe.close()
    os._exit(0)
