"""A table or figure of the paper beside what was measured: request -> search of results -> table, miniature or figure."""
