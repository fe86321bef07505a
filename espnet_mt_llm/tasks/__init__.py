"""Command-line arguments to models, on the task class of ESPnet."""
