"""A DPO run as a user of TRL 1.16 writes it: the other side of `benchmarks.whole`.

python -m benchmarks.trl_script MODEL PAIRS.jsonl OUT [--tuned]
"""

import argparse

import torch
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("out")
parser.add_argument("--tuned", action="store_true")
args = parser.parse_args()

if args.tuned:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"

trainer = DPOTrainer(
    model=args.model,
    args=DPOConfig(
        output_dir=args.out,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=1e-5,
        max_length=512,
        use_cpu=True,
        bf16=False,
        report_to="none",
        precompute_ref_log_probs=args.tuned,
        gradient_checkpointing=not args.tuned,
    ),
    train_dataset=load_dataset("json", data_files=args.data, split="train"),
    processing_class=AutoTokenizer.from_pretrained(args.model),
)
trainer.train()
trainer.save_model()
trainer.save_state()
