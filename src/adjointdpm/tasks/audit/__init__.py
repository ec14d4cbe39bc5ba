"""How easily does a classifier or a content filter fail on generated images?  (paper 4.3 and A.3)

A defensive tool for those who run such a network: it measures how often, and how cheaply, a small change of the initial
noise changes the verdict, so that the network can be hardened and compared.  What may and may not be done with it is in
`docs/responsible-use.md`; `responsible.py` holds the rules that the code enforces.
"""
