"""Result files as tables, charts, pictures and pages that people look at."""
