"""Log-probabilities: the head in chunks, the tree forward, the padded oracle, the reference."""
