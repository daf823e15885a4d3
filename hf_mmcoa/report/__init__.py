"""Result files as tables, charts, pictures and pages."""
