"""HTML pages: Jinja2 templates, figures, and how each page was made."""
