"""Stories: from a text of several scenes to a video of any length (Phenaki, section 3.3)."""
