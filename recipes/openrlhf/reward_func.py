"""OpenRLHF with CAPO.

    --reward.remote_url recipes/openrlhf/reward_func.py --data.label_key answer

A reward service runs (`capo serve`) at CAPO_URL, by default on this machine's port 8000. One on
another machine is started with `--host 0.0.0.0` there, and asks for a key if CAPO_API_KEY is set on
both.
"""

from capo_client.adapters.openrlhf import make_reward_func

reward_func = make_reward_func(voting={"method": "majority", "n": 4})
