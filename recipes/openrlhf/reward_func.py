"""OpenRLHF with CAPO.

    --reward.remote_url recipes/openrlhf/reward_func.py --data.label_key answer

The service (`capo serve Qwen/Qwen2.5-7B-Instruct`) is named by CAPO_URL; default: port 8000 of this
machine. On another machine, start it with `capo serve --host 0.0.0.0`, and set the same
CAPO_API_KEY there and here.
"""

from capo_client.adapters.openrlhf import make_reward_func

reward_func = make_reward_func(voting={"method": "majority", "n": 4})
