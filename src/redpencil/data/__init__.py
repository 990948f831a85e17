"""From files of rows to trees of tokens: sources, records, tokens, trees, batches."""
