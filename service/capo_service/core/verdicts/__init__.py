"""The forms of a judge's verdict: what a judge may write, and how it is read.

base         what every form provides
step_list    JSON list of wrong steps, after a short analysis (profile `default`)
list_start   the start of such a list, and what may follow it
free_text    free text that ends in a tagged list (profile `paper`), and the tolerant parser
first_error  number of the first wrong step in a box (profile `first_error`)
boxed_steps  `correct` or `incorrect` in a box for each step (profile `boxed_steps`)
boxes        finds boxes
criteria     verdicts on criteria, a part of the JSON list
quotation    tells verdicts from quotations
gbnf         parts of grammars
"""
