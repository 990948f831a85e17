"""Statistics of a whole data set: lengths, shortcuts, near duplicates, balance, budget."""
