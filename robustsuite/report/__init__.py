"""Records to tables, figures and files: pure functions of what a run left behind."""
