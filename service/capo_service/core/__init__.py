"""The method itself, as pure functions: no I/O, no clock, no FastAPI, no vLLM, no torch.

steps            text -> character span of each step
vocabulary       tokenizer.json -> what each token adds to decoded text
alignment        token ids -> character spans -> token span of each step
fuzzy_alignment  the same for tokenizers that normalise text
prompt           question + tagged steps -> chat turns
verdicts         the forms of a verdict: constraint, and critique text -> set of wrong steps
step_list        a judge's list of steps -> set of step indices
voting           sets of wrong steps -> penalty of each step
rewards          outcome + penalties -> step and token rewards
arithmetic       false equations in a text
suspicion        signs of reward hacking in a rollout
errors           the error for input that cannot be credited
"""
