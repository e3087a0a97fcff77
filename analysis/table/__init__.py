"""Run tables: their columns, and reading them from MLflow, Parquet or CSV."""
