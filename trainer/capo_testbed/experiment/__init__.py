"""The experiment: questions about credit, answered on tasks with known step truth.

settings    one setting: what differs from the others, what is expected of it, its recipe
questions   the questions, and the settings that answer them
runs        makes the runs; `python -m capo_testbed.experiment.runs`
report      results.json, figures and tables from finished runs
"""
