"""Adapters for RL frameworks, a module each: `trl`, `verl`, `openrlhf`, `slime`, `verifiers`,
`skyrl`, `areal`, `swift`, `nemo_gym`.

Each imports its framework when it is itself imported, and says what to install where that is
missing or too old. None of them is needed for the client. See docs/frameworks.md.
"""
