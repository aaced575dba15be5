"""`capo attack`: how easily is a judge fooled? Over 200 hostile rollouts in named families.

payloads   what a hostile policy would write, by family
corpus     payloads in, around or in place of a solution with a known error
run        the corpus through a service, and the table of what came of it
"""
