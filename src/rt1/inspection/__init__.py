"""What is in a checkpoint or a data set, for the terminal and as a page: start at survey.py."""
