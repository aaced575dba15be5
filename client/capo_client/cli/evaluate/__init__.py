"""The accuracy of a judge: its votes against labelled steps."""
