"""redpencil: align language models with preference pairs.

    import redpencil as rp

    run = rp.train(rp.DpoRecipe(model="Qwen/Qwen3-0.6B", data="pairs.jsonl", out="runs/first"))
    losses, rewards = rp.dpo_loss(pi_logps, ref_logps, yw_idxs, yl_idxs, beta=0.1)

Names are imported when first used, so that `import redpencil` does not wait for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "DataError": "errors",
    "DpoRecipe": "recipes.stages",
    "Interrupted": "errors",
    "Loaded": "use.api",
    "MemoryExceeded": "errors",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "OBJECTIVES": "objectives",
    "Recipe": "recipes.stages",
    "RecipeError": "errors",
    "Record": "types",
    "RedpencilError": "errors",
    "RewardRecipe": "recipes.stages",
    "RlRecipe": "recipes.stages",
    "Run": "stages.run",
    "RunFolderError": "errors",
    "SftRecipe": "recipes.stages",
    "UserError": "errors",
    "build_report": "report",
    "dpo_loss": "objectives",
    "load": "use.api",
    "logps": "use.api",
    "make_recipe": "recipes.stages",
    "paper": "recipes.stages",
    "reward_and_kl": "use.standing",
    "sampled_rewards": "use.standing",
    "train": "stages.run",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'redpencil' has no attribute {name!r}")
    return getattr(import_module(f"redpencil.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
