"""The method itself, as pure functions: no I/O, no clock, no FastAPI, no vLLM, no torch.

steps      text -> step spans
alignment  token ids -> character spans -> token span of each step
prompt     question + tagged steps -> chat messages
verdict    critique text -> set of wrong steps; and the grammar a critique must follow
voting     sets of wrong steps -> a penalty for each step
rewards    outcome + penalties -> step and token rewards
"""
