"""What a model can do, measured: suites, before and after, as a table, JSON and a page. Nothing here imports the trainer."""
