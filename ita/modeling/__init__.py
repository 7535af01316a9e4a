"""Parts of the model as plain modules, independent of configs and registries."""
