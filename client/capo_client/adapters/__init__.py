"""Adapters for RL frameworks, a module each: `trl`, `verl`, `openrlhf`, `slime`, `verifiers`,
`skyrl`, `areal`, `swift`, `nemo_gym`.

Each imports its framework on import, and raises an ImportError that says what to install if that is
missing or too old. The client needs none of them. See docs/frameworks.md.
"""
