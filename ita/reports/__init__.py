"""Tables and pictures of results and label maps, independent of the model."""
