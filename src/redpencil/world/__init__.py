"""The embedded review world: text with a known reward, small enough to train on a laptop."""
