"""Run by accelerate on two processes: one step, whose group of four is spread over both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from kit_adapters import QUESTIONS
from trl import GRPOConfig

from capo_client.adapters.trl import CapoGRPOTrainer, CapoReward

out, model = Path(sys.argv[1]), sys.argv[2]
rows = [{"prompt": [{"role": "user", "content": q}], "answer": a} for q, a in QUESTIONS]
args = GRPOConfig(
    output_dir=str(out), max_steps=1, per_device_train_batch_size=2, num_generations=4,
    max_completion_length=32, report_to=[], use_cpu=True, bf16=False, save_strategy="no", seed=3,
    beta=0.0, disable_tqdm=True,
)  # fmt: skip
# A share of eight critiques: the rewards of a group are never all the same, whatever the judge says.
voting = {"method": "average", "n": 8}
reward = CapoReward(reference="answer", voting=voting, segment={"method": "sentence"})
made = []


class Trainer(CapoGRPOTrainer):
    def _token_advantages(self, output, group_size):
        made.append(super()._token_advantages(output, group_size))
        return made[-1]


trainer = Trainer(
    model=model, reward_funcs=reward, args=args, train_dataset=Dataset.from_list(rows)
)
trainer.train()
found = {"rewards": [s.token_rewards for s in reward.last], "advantages": made[0].tolist()}
(out / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(found))
