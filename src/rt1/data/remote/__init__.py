"""Parts of data sets that lie elsewhere, downloaded."""
