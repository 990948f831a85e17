"""The plan for a person: at most 80 columns wide."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from redpencil.fit.budget import gibibytes

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "head": "head and temporary",
}


def print_plan(result: dict[str, Any]) -> None:
    """Print what `plan` returned."""
    out = Console(highlight=False, width=min(Console().width, 80))
    parameters, memory, steps = result["parameters"], result["memory"], result["steps"]
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("parameters", f"{parameters['total']:,}", f"{parameters['trained']:,} trained")
    table.add_section()
    for part, label in _PARTS.items():
        table.add_row(label, gibibytes(memory[part]), "")
    for phase, peak in memory["phases"].items():
        table.add_row(f"peak, {phase}", gibibytes(peak), _remark(phase, memory))
    if memory["process"] is not None:
        table.add_row("process", gibibytes(memory["process"]), "as the system counts it")
    table.add_row("recomputation", result["activation_checkpointing"], "activation checkpointing")
    table.add_section()
    table.add_row("tokens, padded", f"{steps['tokens_padded']:,}", "as sequences of their own")
    saved = steps["tokens_padded"] / steps["tokens_distinct"]
    table.add_row("tokens, shared", f"{steps['tokens_distinct']:,}", f"{saved:.2f} times fewer")
    if steps["tokens_one_pass"] < steps["tokens_distinct"]:
        fewer = steps["tokens_padded"] / steps["tokens_one_pass"]
        shown = f"{fewer:.2f} times fewer, as prompts begin alike"
        table.add_row("in one pass", f"{steps['tokens_one_pass']:,}", shown)
    table.add_row("longest tree", f"{steps['longest_tree']:,}", "tokens")
    table.add_row(
        "micro-batches",
        f"{steps['micro_batches_a_step']:.2f}",
        f"a step, of up to {result['max_tokens']:,} tokens",
    )
    table.add_row("steps", f"{steps['steps']:,}", f"{steps['tokens_a_step']:,.0f} tokens a step")
    seconds = result["seconds"]
    if seconds:
        table.add_section()
        rate = f"{seconds['tokens_per_second']:,.0f} tokens/s"
        table.add_row("a step", duration(seconds["step"]), rate)
        table.add_row("training", duration(seconds["training"]), "")
        if seconds["reference_pass"]:
            table.add_row(
                "reference pass", duration(seconds["reference_pass"]), "once, then cached"
            )
        table.add_row("evaluations", duration(seconds["evaluations"]), "without samples")
    out.print(table)
    out.print(verdict(result), soft_wrap=True)
    for suggestion in result["suggestions"]:
        fits = "fits" if suggestion["fits"] else "does not fit"
        out.print(f"  {gibibytes(suggestion['peak'])}, {fits}: {suggestion['options']}")


def _remark(phase: str, memory: dict[str, Any]) -> str:
    if memory["reference"] and phase == "evaluation":
        return f"with a reference of {gibibytes(memory['reference'])}"
    return ""


def verdict(result: dict[str, Any]) -> str:
    """One sentence: does it fit?"""
    memory = result["memory"]
    peak = gibibytes(memory["peak"])
    if memory["free"] is None:
        return f"It needs {peak}; how much is free, this system does not tell."
    room = f"{gibibytes(memory['room'])} of {gibibytes(memory['free'])} free on {result['device']}"
    if memory["fits"]:
        return f"It fits: {peak}, and a run may take {room}."
    return f"It does not fit: {peak}, and a run may take {room}. What needs less:"


def duration(seconds: float) -> str:
    """`850 ms`, `12.3 s`, `4 min 10 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
