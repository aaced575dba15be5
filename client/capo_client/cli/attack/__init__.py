"""`capo attack`: measures how often a judge is fooled, by over 200 hostile rollouts in families.

payloads   hostile texts by family
corpus     payloads in, around or in place of a solution with a known error
run        sends the corpus to a service, and counts the results
"""
