"""The command lines of the review world: `demo` and `frontier`."""

import argparse
from collections.abc import Callable

from redpencil.cli.options import add_verbosity
from redpencil.console import say
from redpencil.places import path_of
from redpencil.world.settings import DEMO_STAGES

Add = Callable[[str, Callable[[argparse.Namespace], None], str, str], argparse.ArgumentParser]


def add_demo(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        say(f"demo      {len(DEMO_STAGES)} stages in {args.out}; it ends with a report")
        from redpencil.frontier.demo import demo  # torch takes seconds to load

        demo(path_of(args.out), seed=args.seed)

    made = command(
        "demo",
        run,
        "the whole path on the embedded review world, ends with a report",
        "redpencil demo --out runs/demo",
    )
    made.add_argument("--out", default="runs/demo", help="run folder (runs/demo)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of world and model (0)")
    add_verbosity(made)


def add_frontier(command: Add) -> None:
    def run(args: argparse.Namespace) -> None:
        from redpencil.frontier.frontier import Asked, frontier
        from redpencil.frontier.plan import parse_methods

        methods = parse_methods(args.methods)
        frontier(path_of(args.out), Asked(methods=methods, seeds=args.seeds, jobs=args.jobs))

    made = command(
        "frontier",
        run,
        "reward against KL for every method, with the exact optimum, on the review world",
        "redpencil frontier --out runs/frontier",
    )
    made.add_argument("--out", default="runs/frontier", help="folder; an existing one is resumed")
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each kind (3)")
    made.add_argument(
        "--methods",
        metavar="NAME,...",
        help="of dpo, unlikelihood, preferred-ft, ppo, ppo-truth, rloo, best-of-n, best-of-n-truth "
        "(all but rloo)",
    )
    made.add_argument(
        "--jobs", type=int, metavar="N", help="processes side by side (the number of cores)"
    )
