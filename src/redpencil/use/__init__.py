"""What is done with a model once it stands: measure, sample, talk, label, judge, export."""
