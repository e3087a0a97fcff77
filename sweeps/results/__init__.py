"""From finished runs to laws, figures, tables and the dashboard's data."""
