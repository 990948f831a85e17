"""The report: reads a run folder, writes one self-contained page. Never imports torch."""
