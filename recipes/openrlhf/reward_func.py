"""OpenRLHF with CAPO.

    --reward.remote_url recipes/openrlhf/reward_func.py --data.label_key answer

A reward service runs beside it (`capo serve`), at CAPO_URL or on this machine's port 8000.
"""

from capo_client.adapters.openrlhf import make_reward_func

reward_func = make_reward_func(voting={"method": "majority", "n": 4})
