"""The parts of the model as plain modules; none of them knows a config or a registry."""
