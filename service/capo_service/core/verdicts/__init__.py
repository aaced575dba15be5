"""The forms of a judge's verdict: what a judge may write, and how it is read.

base        what every form provides
step_list   JSON list of wrong steps, after a short analysis (profile `default`)
free_text   free text that ends in a tagged list (profile `paper`), and the tolerant parser
"""
