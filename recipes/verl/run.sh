#!/usr/bin/env bash
# GRPO with CAPO's token rewards in verl (docs/verl.md). More options of verl may follow the command.
#
# One node of eight GPUs, four for the judge and four for verl:
#   CUDA_VISIBLE_DEVICES=4,5,6,7 capo serve Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size 4
#   CUDA_VISIBLE_DEVICES=0,1,2,3 GPUS=4 CAPO_URL=http://127.0.0.1:8000 recipes/verl/run.sh
#
# A Ray cluster of several nodes, and a judge on another node, here called judge. The judge listens to other
# machines with --host only, and asks for the key that the others send:
#   export CAPO_API_KEY=a-long-secret       # on the judge's node, and before `ray start` on all others
#   capo serve Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size 4 --host 0.0.0.0
# On the head node `ray start --head`, on the others `ray start --address=HEAD:6379`; verl and this package
# (`pip install .`) on all of them. Then, on the head node:
#   CAPO_URL=http://judge:8000 NODES=2 recipes/verl/run.sh
set -euo pipefail

: "${CAPO_URL:?name the reward service, or several of them with commas}"
: "${NODES:=1}" "${GPUS:=8}" "${MODEL:=Qwen/Qwen2.5-7B}"
: "${TRAIN:=$HOME/data/gsm8k/train.parquet}" "${TEST:=$HOME/data/gsm8k/test.parquet}"

python3 -m verl.trainer.main_ppo \
    reward.reward_manager.source=importlib \
    reward.reward_manager.module.path=pkg://capo_client.adapters.verl \
    reward.reward_manager.name=CapoRewardManager \
    +actor_rollout_ref.rollout.agent.agent_loop_manager_class=capo_client.adapters.verl.CapoAgentLoopManager \
    algorithm.adv_estimator=capo \
    "+reward.reward_kwargs.capo={url:'$CAPO_URL',voting:{method:majority,n:4},fallback:skip}" \
    data.train_files="$TRAIN" data.val_files="$TEST" \
    data.train_batch_size=128 data.max_prompt_length=512 data.max_response_length=2048 \
    actor_rollout_ref.model.path="$MODEL" \
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    trainer.nnodes="$NODES" trainer.n_gpus_per_node="$GPUS" \
    trainer.logger='["console","tensorboard"]' trainer.project_name=capo \
    trainer.experiment_name=capo-majority-4 trainer.total_epochs=1 trainer.test_freq=10 "$@"
