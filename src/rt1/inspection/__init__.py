"""What is in a data set: start at survey.py."""
