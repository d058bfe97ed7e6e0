"""Results of evaluations, as tables and as a page."""
