"""How good a judge is: its votes against steps of known worth."""
