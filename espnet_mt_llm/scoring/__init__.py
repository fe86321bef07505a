"""Every metric, and the results page."""
