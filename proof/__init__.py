"""Results of the long proofs, with the hash of the source they prove."""
