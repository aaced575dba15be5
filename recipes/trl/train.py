"""GRPO with CAPO's token advantages in TRL. `accelerate launch recipes/trl/train.py`.

A reward service runs (`capo serve`) at CAPO_URL, by default on this machine's port 8000. One on
another machine is started with `--host 0.0.0.0` there, and asks for a key if CAPO_API_KEY is set on
both.
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
