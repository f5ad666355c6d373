"""The report of a run: one offline HTML page. Imports no torch; the gallery does."""
