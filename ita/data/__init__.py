"""Data sets: the catalogue of benchmarks, custom sets, records, mappers, loaders, preparation."""
