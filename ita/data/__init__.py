"""Data sets: benchmark catalogue, custom data sets, records, mappers, loaders, preparation."""
