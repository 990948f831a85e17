"""The embedded review world: text with a known reward, small enough to train on a laptop.

lexicon, productions, grammar: what is written. sentiment, fluency, reward: what it is worth.
tokenizer, model, pairs, settings: what the demo trains, on what. enumerable: a world that is a
table, where the optimum is exact.
"""
