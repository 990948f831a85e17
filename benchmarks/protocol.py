"""What the two workers share: a line of JSON in, a line of JSON out, and equal adapters.

The parent writes "step" or "quit"; the worker answers each step with one line. A worker that is
not asked waits, so only one computes at a time. This file imports neither redpencil nor TRL.
"""

import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Channel:
    """The worker's end of the pipe. Whatever libraries print goes to stderr from here on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._asked = time.perf_counter()

    def ready(self) -> None:
        """Tell the parent that set-up is done, and how many seconds it took."""
        self._write({"setup_seconds": time.perf_counter() - self._asked})

    def wait(self) -> None:
        """Block until the next step is asked for; end the process on anything else."""
        if sys.stdin.readline().strip() != "step":
            raise SystemExit
        self._asked = time.perf_counter()

    def answer(self, **measured: float) -> None:
        """Report a step; its seconds run from the request to now, all work between included."""
        seconds = time.perf_counter() - self._asked
        self._write({"seconds": seconds, **measured, "peak_rss": peak_rss()})

    def _write(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._out, flush=True)


def read_job(path: str) -> dict[str, Any]:
    """The case as `cases.build` wrote it."""
    job: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return job


def peak_rss() -> int:
    """Most resident bytes this process has had. (`getrusage` would count the parent's, too.)"""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


@torch.no_grad()
def equal_adapters(model: nn.Module) -> None:
    """Draw the random half of LoRA adapters by parameter name, so that both sides have the same
    whatever their libraries drew before. The other half stays zero."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            bound = parameter.shape[1] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
