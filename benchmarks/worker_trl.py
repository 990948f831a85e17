"""TRL's side of the comparison: a real DPOTrainer in its own loop, halted between steps.

    python -m benchmarks.worker_trl JOB.json [--tuned] [--onednn] [--head]

Runs in an environment with TRL and imports nothing of redpencil. As installed: TRL's defaults
(a live reference, activation recomputation), but for float32 and the settings both sides share.
--tuned: reference precomputed, no recomputation. --onednn: oneDNN's matrix product. --head: the
vocabulary projection on response positions only, which TRL 1.16 does on a GPU but not on a CPU.
"""

import argparse
from typing import Any

import torch
import trl.trainer.utils
from benchmarks.protocol import Channel, equal_adapters, read_job
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class CountingTrainer(DPOTrainer):
    """Notes what the last step was fed."""

    fed: dict[str, int]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.fed = {
            "tokens": int(inputs["attention_mask"].sum()),
            "slots": inputs["input_ids"].numel(),
        }
        return super().training_step(model, inputs, *args, **kwargs)


class HaltBetweenSteps(TrainerCallback):
    """Waits for the parent where a step is logged, which with logging_steps=1 is after each. What
    the trainer does between two steps is thereby part of the second."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.trainer: CountingTrainer | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.channel.ready()
        self.channel.wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        assert self.trainer is not None
        self.channel.answer(loss=logs["loss"], grad_norm=logs["grad_norm"], **self.trainer.fed)
        self.channel.wait()


def dpo_config(job: dict[str, Any], tuned: bool) -> DPOConfig:
    """What both sides share, float32, nothing saved; the rest is TRL's default unless tuned."""
    chosen = {"precompute_ref_log_probs": True, "gradient_checkpointing": False} if tuned else {}
    return DPOConfig(
        output_dir=job["out"],
        per_device_train_batch_size=job["pairs"],
        max_length=job["max_length"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        beta=job["beta"],
        max_steps=1_000_000,  # the parent says when it is enough
        train_sampling_strategy="sequential",  # the file's order is already a random one
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
        **chosen,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("job")
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--onednn", action="store_true")
    parser.add_argument("--head", action="store_true")
    args = parser.parse_args()
    job = read_job(args.job)
    channel = Channel()
    if args.onednn:
        # On x86 without bf16 matrix units oneDNN still computes in float32, only faster.
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    if args.head:
        # The fused head asks this to choose positions; the kernels ask their own module.
        trl.trainer.utils._use_triton = lambda device: True
    rank = job["lora_rank"]
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    ) if rank else None  # fmt: skip
    halt = HaltBetweenSteps(channel)
    trainer = CountingTrainer(
        model=job["model"],
        args=dpo_config(job, args.tuned),
        train_dataset=load_dataset("json", data_files=job["data"], split="train"),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=lora,
        callbacks=[halt],
    )
    halt.trainer = trainer
    equal_adapters(trainer.model)
    trainer.train()


if __name__ == "__main__":
    main()
