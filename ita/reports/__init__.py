"""Tables and pictures of results and label maps; no model is known here."""
