"""`capo doctor`: check a running service step by step, and say what to change.

report       the results of checks, and how they are shown
address      URL, host, port, TLS, and what answers there
service      readiness, versions, key, judge, tokenizers, limits
rollouts     a rollout credited end to end, and a short measurement
run          the command
"""
