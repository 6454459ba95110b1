"""Parts of the page, one file a panel."""
