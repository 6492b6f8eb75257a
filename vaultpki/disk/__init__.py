"""The only writer of certificate files: single files that survive a crash, and sets of files swapped in one step.

It imports the plain modules, `values` (who may write to a file) and `pki` (the pinned root in the owner mark). Entry:
`store.Directory`.
"""
