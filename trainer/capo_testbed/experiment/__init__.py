"""The experiment: questions about credit, answered on tasks with known step truth.

settings        one setting: what differs from the others, what is expected of it, its recipe
questions       the questions, and the settings that answer them
                (hacking, advantages: those of two questions)
runs            makes the runs; `python -m capo_testbed.experiment.runs`
judges          precision and recall of the real judges, before anything is learnt
collect         results.json, from finished runs
intervals       means and differences with 95% intervals
compute         FLOPs of a run; equal_compute: the gain over GRPO at the same FLOPs
exact_votes     what each vote does to independent errors, without training
tables, grids   tables; summary: one line for each question
figures         one figure for each question; plots_single, plotting: parts of them
reported        the report's questions, and the command that makes the runs of each
report          all of it, into docs/experiment.md; `python -m capo_testbed.experiment.report`
"""
