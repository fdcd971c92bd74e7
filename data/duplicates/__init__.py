"""Documents that equal another one, almost do, or hold its text.

judging        which documents are duplicates, and which of these are dropped: read this first
exact          documents that are equal, by their digests
near           documents that are almost equal, by their signatures
signatures     MinHash signatures of texts
shingles       texts as sets of hashed runs of words
run_hashes     hashes of runs of words or tokens
held_out_runs  runs of held-out tokens that training documents hold too
"""
