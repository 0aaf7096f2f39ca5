"""Ten hard cases, at most 40 lines each against the protocols: does the grammar carry the algorithm?"""
