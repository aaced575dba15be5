"""`capo attack`: measures how often a judge is fooled, by over 300 hostile rollouts in families.

payloads      hostile texts by family
corpus        payloads in, around or in place of a solution with a known error
trajectories  hostile observations between the steps of such a solution
structure     whether a result keeps the structure that the HTTP API promises
run           sends the corpus to a service, and counts the results
"""
