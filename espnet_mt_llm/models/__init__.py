"""Complete models: forward gives loss, statistics and weight."""
