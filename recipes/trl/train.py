"""GRPO with CAPO's token advantages in TRL (docs/trl.md).

    CUDA_VISIBLE_DEVICES=7 capo serve Qwen/Qwen2.5-7B-Instruct
    CUDA_VISIBLE_DEVICES=0,1,2,3 accelerate launch --num_processes 4 recipes/trl/train.py

The service is named by CAPO_URL; default: port 8000 of this machine. On another machine, start it
with `capo serve --host 0.0.0.0`, and set the same CAPO_API_KEY there and here.
"""

from datasets import load_dataset
from trl import GRPOConfig

from capo_client.adapters.trl import CapoGRPOTrainer, CapoReward

dataset = load_dataset("openai/gsm8k", "main", split="train").map(
    lambda row: {"prompt": [{"role": "user", "content": row["question"]}]}
)

trainer = CapoGRPOTrainer(
    model="Qwen/Qwen2.5-1.5B-Instruct",
    reward_funcs=CapoReward(reference="answer", voting={"method": "majority", "n": 4}),
    args=GRPOConfig(
        output_dir="out",
        num_generations=8,
        max_completion_length=1024,
        loss_type="grpo",  # the paper's average: per rollout, then rollouts
        scale_rewards="group",
        beta=0.0,
        logging_steps=1,
    ),
    train_dataset=dataset,
)
trainer.train()
