"""One script per claim: ``python -m benchmarks.NAME [--quick] [--data DIR]``; ``python -m benchmarks`` runs all."""
