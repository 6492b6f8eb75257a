"""What vaultpki costs beside its peers, each a whole process, in turn, on one machine (`make bench`)."""
